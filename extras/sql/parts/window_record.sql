SET @indexer_triggers_on = UTC_TIMESTAMP(6);
SET @indexer_taken_at = (SELECT COALESCE(MIN(taken_at), UTC_TIMESTAMP(6)) FROM indexer_window);

INSERT IGNORE INTO indexer_window (study_pk, study_iuid, checksum, taken_at)
  SELECT study_pk, study_iuid, 0, recorded_at
    FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation IN ('stored', 'changed');

-- One that was recorded before part 3 read, but committed after, and is gone: neither part 3 nor a trigger saw that.
INSERT IGNORE INTO indexer_window (study_pk, study_iuid, checksum, taken_at)
  SELECT o.study_pk, MAX(o.study_iuid), 0, MAX(o.recorded_at)
    FROM study_service o
    LEFT JOIN study s ON s.pk = o.study_pk AND s.patient_fk IS NOT NULL
   WHERE o.recorded_at >= @indexer_taken_at - INTERVAL 1 DAY AND s.pk IS NULL
         AND o.operation IN ('stored', 'changed', 'deleted')
   GROUP BY o.study_pk
  HAVING SUM(o.operation = 'deleted') = 0;

-- A study that has another UID now: the old one is gone, unless another study has it.
INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  SELECT UUID_SHORT(), 'deleted', NULL, NULL, NULL, w.study_pk, w.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         UTC_TIMESTAMP(6)
    FROM indexer_window w
    JOIN study s ON s.pk = w.study_pk
    LEFT JOIN study u ON u.study_iuid = w.study_iuid
   WHERE w.checksum <> 0 AND CAST(w.study_iuid AS BINARY) <> CAST(CONVERT(s.study_iuid USING utf8mb4) AS BINARY) AND u.pk IS NULL;

INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  SELECT STRAIGHT_JOIN
         UUID_SHORT(), IF(w.study_pk IS NULL, 'stored', 'changed'), v.patient_pk, v.patient_id, v.patient_name, v.study_pk,
         v.study_iuid, v.study_datetime, v.study_description, v.study_modality, v.study_series, v.study_instances, v.accession_no,
         v.patient_id_issuer, UTC_TIMESTAMP(6)
    FROM indexer_window_now n
    LEFT JOIN indexer_window w ON w.study_pk = n.study_pk
    JOIN indexer_study v ON v.study_pk = n.study_pk
   WHERE w.study_pk IS NULL OR w.checksum <> n.checksum;
