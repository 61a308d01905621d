#!/bin/sh
# For cron, where no service can run: sends what is new and ends; quiet unless something is wrong, so that cron's mail is news.
#
#   */5 * * * * /srv/dicom_indexer/extras/dicom_indexer.sh [DIRECTORY]
#
# DIRECTORY is where config.json is; by default the one above this script. A run that takes longer than the five minutes is
# no trouble: the next one sees it and ends at once. Exit status: 0 all is sent, 1 it isn't, 2 bad configuration.
set -eu
here=$(dirname "$(readlink -f "$0")")
cd "${1:-$here/..}"

for python in "$PWD/venv/bin/python" "$PWD/.venv/bin/python" "$here/../venv/bin/python" "$here/../.venv/bin/python" \
    /opt/cdc-indexer/bin/python /usr/lib/cdc-indexer/bin/python; do
    [ -x "$python" ] && break
    python=python3
done

# The environment, if it says so, wins.
export CDC_INDEXER_LOG__LEVEL="${CDC_INDEXER_LOG__LEVEL:-warning}"
exec "$python" -m cdc_indexer --config config.json run --until-caught-up
