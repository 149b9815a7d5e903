"""The engine process: disks, pools, volumes and targets. It alone imports the core, and never listens for HTTP."""
