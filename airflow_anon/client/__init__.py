"""All I/O: how a worker and a triggerer speak to the API."""
