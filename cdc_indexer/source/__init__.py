"""The database: connections, binary log, outbox, catalogue."""
