"""The REST routes, one file a subject; all of them ask :class:`serving.service.Service`."""
