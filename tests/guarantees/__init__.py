"""What must survive: real processes, killed, stopped and starved, and then every row compared."""
