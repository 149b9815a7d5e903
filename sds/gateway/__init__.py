"""The gateway process: REST, authentication, metrics. It has no rights on disks and asks the engine for everything."""
