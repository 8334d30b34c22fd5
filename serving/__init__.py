"""The HTTP API: FastAPI over the tables, stores and topics of ``lakehouse``."""
