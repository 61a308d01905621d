
-- Not what a trigger recorded already, and not if the same UID was stored again meanwhile: the central index knows a study by
-- its UID. In tables of their own, because optimizers read study_service once for each deleted study else. (Each has a primary
-- key: a server may demand that of temporary tables too.)
DROP TEMPORARY TABLE IF EXISTS indexer_window_ended, indexer_window_stored;
CREATE TEMPORARY TABLE indexer_window_ended (study_pk BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB;
CREATE TEMPORARY TABLE indexer_window_stored (
  study_pk BIGINT NOT NULL PRIMARY KEY, study_iuid VARCHAR(250) NULL, KEY study_iuid (study_iuid(64))
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
INSERT IGNORE INTO indexer_window_ended
  SELECT study_pk FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation = 'deleted';
INSERT IGNORE INTO indexer_window_stored
  SELECT study_pk, study_iuid FROM study_service WHERE recorded_at >= @indexer_taken_at AND operation = 'stored';

INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  SELECT UUID_SHORT(), 'deleted', NULL, NULL, NULL, w.study_pk, w.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         UTC_TIMESTAMP(6)
    FROM indexer_window w
    LEFT JOIN study s ON s.pk = w.study_pk AND s.patient_fk IS NOT NULL
    LEFT JOIN indexer_window_ended e ON e.study_pk = w.study_pk
   WHERE w.study_pk <> 0 AND s.pk IS NULL AND e.study_pk IS NULL
     AND NOT EXISTS (SELECT 1 FROM indexer_window_stored o WHERE o.study_iuid = w.study_iuid AND o.study_pk <> w.study_pk);
DROP TEMPORARY TABLE indexer_window_ended, indexer_window_stored;

DROP VIEW indexer_window_now;
DROP TABLE indexer_window;
