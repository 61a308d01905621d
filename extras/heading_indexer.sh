#!/bin/sh
# The other name of dicom_indexer.sh: both are in use.
exec "$(dirname "$(readlink -f "$0")")/dicom_indexer.sh" "$@"
