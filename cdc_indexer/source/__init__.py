"""The database: connections, binary log, outbox, catalogue."""

from cdc_indexer.model.lean import without

# What a login seldom needs: _driver.py sees to it that it is there then.
with without("cryptography"):
    import pymysql as _pymysql  # noqa: F401
