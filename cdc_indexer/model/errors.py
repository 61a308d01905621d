"""The errors of cdc_indexer, and what each of them makes the program do.

    IndexerError
    ├── ConfigError           a setting is missing or wrong            -> exit status 2
    ├── FatalError            a person has to choose or to mend        -> exit status 1
    │   ├── AlreadyRunning    another process holds the state directory
    │   ├── CheckpointError   no generation of the checkpoint can be trusted
    │   ├── StateError        what the state directory holds can't be used: damaged, foreign, of another version
    │   │   └── LedgerDamaged     its ledger only: the next start begins a new one and keeps the rest
    │   └── SyncFailed        the disk lost what it had taken: only a new start knows what is on it
    ├── SourceError           the database can't be read just now      -> wait, connect again
    │   ├── SourceRefused     it refuses us, or a file for it is wrong -> the same; the files are read again before each try
    │   ├── SourceFull        it has no room for one more session      -> do with those that there are, else wait
    │   ├── SourceChanged     it is another one than before            -> begin again at once; nothing read before settles
    │   ├── SchemaError       the outbox or the view isn't as the SQL in extras/ makes it
    │   ├── PositionLost      the position is purged, reset or another server's -> fresh position, audit
    │   ├── NoBinlog          log_bin is off or the right is missing   -> go on from the table alone
    │   └── ServerIdClash     another replica uses our server_id       -> wait longer, say so
    ├── StorageError          the state directory can't be written     -> send nothing, try again
    ├── InvalidStudy          a row can't become a study               -> park it
    └── Stopped               the program is asked to end              -> drain, exit status 0

Every message is one sentence for the administrator: what happened and what to do. None holds a key,
a password, or a patient's name or id.
"""

from __future__ import annotations


class IndexerError(Exception):
    """Base of every error that this program raises on purpose."""


class ConfigError(IndexerError):
    """A setting is missing or wrong; the message names its key."""


class FatalError(IndexerError):
    """Going on would lose something or needs a person's choice."""


class AlreadyRunning(FatalError):
    """Another process holds the lock on the state directory."""


class CheckpointError(FatalError):
    """The checkpoint exists, but no generation of it can be trusted."""


class StateError(FatalError):
    """What the state directory holds can't be used; to begin anew by itself would send everything again."""


class LedgerDamaged(StateError):
    """The state's ledger is damaged; the next start begins a new one and keeps position, settled rows and parked studies."""


class SyncFailed(FatalError):
    """A failed fsync: what the kernel says of the file from now on isn't what is on the disk."""


class SourceError(IndexerError):
    """The database is away, refuses us, or closed the connection; waiting can heal it."""


class SourceRefused(SourceError):
    """The login, a right or TLS is refused, or a file that the settings name can't be read; a person mends that."""


class SourceFull(SourceError):
    """The server gives this account, or anybody, no further session."""


class SourceChanged(SourceError):
    """Settings, server or address are others than when the session was borrowed: a new epoch of the source."""


class SchemaError(SourceError):
    """The view, the table or its columns are missing or not as extras/*.sql makes them; a person mends that."""


class PositionLost(SourceError):
    """The server doesn't hold the position (purged, reset), or it belongs to another server."""


class NoBinlog(SourceError):
    """The binary log can't be had at all: log_bin is off, or the right to read it is missing."""


class ServerIdClash(SourceError):
    """The server ended our stream because another replica came with the same server_id."""


class StorageError(IndexerError):
    """The state directory can't be written (disk full, read-only)."""


class InvalidStudy(IndexerError):
    """A row can't become a study; the message names the column, never its value."""


class Stopped(IndexerError):
    """The program is asked to end; raised where a thread would otherwise wait."""
