DROP PROCEDURE IF EXISTS indexer_install_table;
DELIMITER //
CREATE PROCEDURE indexer_install_table()
BEGIN
  DECLARE tables_found, columns_found INT;
  SELECT COUNT(*) INTO tables_found FROM information_schema.TABLES
   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service';
  SELECT COUNT(*) INTO columns_found FROM information_schema.COLUMNS
   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service' AND COLUMN_NAME = 'id';
  IF columns_found = 0 THEN
    DROP TABLE IF EXISTS study_service_new;
    CREATE TABLE study_service_new (
      id                BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'UUID_SHORT(): never given twice, whatever is restored',
      operation         VARCHAR(16) NOT NULL COMMENT 'stored, changed, deleted, patient',
      patient_pk        BIGINT NULL,
      patient_id        VARCHAR(250) NULL,
      patient_name      VARCHAR(250) NULL,
      study_pk          BIGINT NULL COMMENT '0 in a row that stands for all studies of the patient',
      study_iuid        VARCHAR(250) NULL,
      study_datetime    DATETIME NULL,
      study_description VARCHAR(250) NULL,
      study_modality    VARCHAR(250) NULL,
      study_series      INT NULL,
      study_instances   INT NULL,
      accession_no      VARCHAR(250) NULL,
      patient_id_issuer VARCHAR(250) NULL,
      recorded_at       DATETIME(6) NOT NULL COMMENT 'UTC',
      PRIMARY KEY (id),
      KEY study_pk (study_pk),
      KEY recorded_at (recorded_at)
    ) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
  END IF;
  IF tables_found = 0 THEN
    RENAME TABLE study_service_new TO study_service;
  ELSEIF columns_found = 0 THEN
    -- The old client's queue. Both tables change places in one step: before it nothing has changed, after it all is there.
    INSERT INTO study_service_new (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
        study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
      SELECT UUID_SHORT(), 'stored', v.patient_pk, v.patient_id, v.patient_name, v.study_pk, v.study_iuid, v.study_datetime,
             v.study_description, v.study_modality, v.study_series, v.study_instances, v.accession_no, v.patient_id_issuer,
             UTC_TIMESTAMP(6)
        FROM study_service q JOIN indexer_study v ON v.study_pk = q.study_pk;
    DROP TABLE IF EXISTS study_service_old;
    RENAME TABLE study_service TO study_service_old, study_service_new TO study_service;
  END IF;
  DROP TABLE IF EXISTS study_service_new;
  DROP TABLE IF EXISTS study_service_old;
  -- For which version of the archive's tables this was made: `check --admin` compares.
  IF NOT EXISTS (SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'study_service'
                    AND TABLE_COMMENT = COALESCE(@indexer_made_for, '')) THEN
    SET @indexer_sql = CONCAT('ALTER TABLE study_service COMMENT = ''', COALESCE(@indexer_made_for, ''), '''');
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    DEALLOCATE PREPARE indexer_statement;
  END IF;
END//
DELIMITER ;
CALL indexer_install_table();
DROP PROCEDURE indexer_install_table;

GRANT SELECT, DELETE ON study_service TO 'indexer_definer'@'localhost';
CALL indexer_install_rights('SELECT', 'indexer_study');
CALL indexer_install_rights('SELECT, INSERT, UPDATE, TRIGGER', 'study_service');
