"""Exchange: events out to files and in from files, as CSV, JSON lines and Parquet."""
