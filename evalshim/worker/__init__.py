"""The only code of evalshim that runs inside an upstream's environment.

Started by file path, so that nothing of evalshim need be installed there; it
calls itself `evalshim_worker`. Imports the standard library, its upstream and
its own modules only. `__main__.py` has the wire contract.
"""
