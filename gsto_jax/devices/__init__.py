"""Device mesh, multi-process coordination and host memory."""
