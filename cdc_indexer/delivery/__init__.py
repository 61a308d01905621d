"""The central index: one POST, in order per study, parallel across studies."""

import warnings

from cdc_indexer.model.lean import without

# Both guess the encoding of a text that doesn't say it: an index says JSON, and we read its bytes. requests warns of it.
with warnings.catch_warnings(), without("chardet", "charset_normalizer"):
    warnings.simplefilter("ignore")
    import requests as _requests  # noqa: F401
