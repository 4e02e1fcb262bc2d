"""The demo: several processes run small tools over the files of this machine's Python, a daemon keeps the record.

The work is real, and so are its times and failures. In the middle the daemon is killed, and nothing is lost.

    tools     the skills: functions that do something with a file
    plan      which tool is run on which file, the same at every run on the same machine
    worker    a process that runs its part of the plan and counts what it recorded
    crew      the workers, seen from the demo
    daemon    the daemon's process: started, killed, started again, stopped
    outcome   what is in the database at the end, compared with what the workers say
    play      all of it, in order
"""
