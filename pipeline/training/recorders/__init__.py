"""Where a training can be watched: one module a place. All of them run on the driver."""
