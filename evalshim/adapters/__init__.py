"""Pure translations between our types and an upstream's files, arguments and configurations.

No subprocess, no network, no I/O beyond the file an adapter is given.
"""
