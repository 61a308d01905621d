DELIMITER //
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL indexer_process(NEW.pk, 'stored');
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF CAST(OLD.study_iuid AS BINARY) <> CAST(NEW.study_iuid AS BINARY) THEN
    {{record 'deleted', OLD.pk, OLD.study_iuid}}
  END IF;
  IF NOT (OLD.patient_fk <=> NEW.patient_fk
          AND CAST(OLD.study_iuid AS BINARY) <=> CAST(NEW.study_iuid AS BINARY)
          AND CAST(OLD.study_date AS BINARY) <=> CAST(NEW.study_date AS BINARY)
          AND CAST(OLD.study_time AS BINARY) <=> CAST(NEW.study_time AS BINARY)
          AND CAST(OLD.study_desc AS BINARY) <=> CAST(NEW.study_desc AS BINARY)
          AND CAST(OLD.accession_no AS BINARY) <=> CAST(NEW.accession_no AS BINARY)) THEN
    CALL indexer_process(NEW.pk, 'changed');
  END IF;
END//

-- Key and UID, and nothing from the view: that may lack the study.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  {{record 'deleted', OLD.pk, OLD.study_iuid}}
END//

-- One small row for each image; see the head of this file. Not by way of indexer_process: with each image the server would open
-- every table that the view names. All columns are named, so that the binary log has them all with binlog_row_image = MINIMAL too.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_instance_insert AFTER INSERT ON instance FOR EACH ROW
BEGIN
  DECLARE found_pk BIGINT;
  DECLARE found_iuid VARCHAR(250) CHARACTER SET utf8mb4;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT s.pk, s.study_iuid INTO found_pk, found_iuid
    FROM series r JOIN study s ON s.pk = r.study_fk WHERE r.pk = NEW.series_fk;
  IF found_pk IS NOT NULL THEN
    {{record 'changed', found_pk, found_iuid}}
  END IF;
END//

-- Not when the archive moves a series' records into its metadata (inst_purge_state 1): the study has its images as before.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_instance_delete AFTER DELETE ON instance FOR EACH ROW
BEGIN
  DECLARE found_pk BIGINT;
  DECLARE purged INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT study_fk INTO found_pk FROM series WHERE pk = OLD.series_fk;
  SELECT inst_purge_state INTO purged FROM series WHERE pk = OLD.series_fk;
  IF purged <> 1 THEN
    CALL indexer_process(found_pk, 'counted');
  END IF;
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_series_insert AFTER INSERT ON series FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL indexer_process(NEW.study_fk, 'counted');
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_series_update AFTER UPDATE ON series FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (OLD.study_fk <=> NEW.study_fk AND OLD.rejection_state <=> NEW.rejection_state
          AND CAST(OLD.modality AS BINARY) <=> CAST(NEW.modality AS BINARY)) THEN
    CALL indexer_process(NEW.study_fk, 'counted');
    IF OLD.study_fk <> NEW.study_fk THEN
      CALL indexer_process(OLD.study_fk, 'counted');
    END IF;
  END IF;
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_series_delete AFTER DELETE ON series FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  CALL indexer_process(OLD.study_fk, 'counted');
END//

-- Before 5.31 a patient names its id. A column that an update of the archive drops must not be named as OLD.x or NEW.x: from then
-- on every UPDATE would fail, and no handler would catch it. So it is read, before and after. (From 5.31 on: see below.)
CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_before BEFORE UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SET @indexer_patient_id = NULL;
  SELECT COALESCE(patient_id_fk, 0) INTO @indexer_patient_id FROM patient WHERE pk = OLD.pk;
END//

-- One row for the patient; the service finds the patient's studies.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE now_id BIGINT;
  DECLARE has_studies INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  IF NOT OLD.pat_name_fk <=> NEW.pat_name_fk THEN
    CALL indexer_process(NEW.pk, 'patient');
  ELSEIF @indexer_patient_id IS NOT NULL THEN
    SELECT COALESCE(patient_id_fk, 0) INTO now_id FROM patient WHERE pk = NEW.pk;
    IF now_id <> @indexer_patient_id THEN
      SELECT 1 INTO has_studies FROM study WHERE patient_fk = NEW.pk LIMIT 1;
      IF has_studies THEN
        CALL indexer_process(NEW.pk, 'patient');
      END IF;
    END IF;
    SET @indexer_patient_id = NULL;
  END IF;
END//

-- The name stands in a row of its own, which belongs to at most one patient.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_person_name_update AFTER UPDATE ON person_name FOR EACH ROW
BEGIN
  DECLARE the_patient_pk BIGINT;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  IF NOT CAST(OLD.alphabetic_name AS BINARY) <=> CAST(NEW.alphabetic_name AS BINARY) THEN
    SELECT pk INTO the_patient_pk FROM patient WHERE pat_name_fk = NEW.pk;
    IF the_patient_pk IS NOT NULL THEN
      CALL indexer_process(the_patient_pk, 'patient');
    END IF;
  END IF;
END//

-- An id counts when it is its patient's first. Before 5.31 it doesn't name its patient (the first SELECT fails, which the handler
-- takes), from 5.31 on the patient doesn't name its id. A patient without studies, such as a new one, concerns nobody.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_id_insert AFTER INSERT ON patient_id FOR EACH ROW
BEGIN
  DECLARE the_patient_pk BIGINT;
  DECLARE has_studies INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT i.patient_fk INTO the_patient_pk FROM patient_id i
   WHERE i.pk = NEW.pk AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = i.patient_fk AND j.pk < i.pk);
  IF the_patient_pk IS NULL THEN
    SELECT pk INTO the_patient_pk FROM patient WHERE patient_id_fk = NEW.pk;
  END IF;
  SELECT 1 INTO has_studies FROM study WHERE patient_fk = the_patient_pk LIMIT 1;
  IF has_studies THEN
    CALL indexer_process(the_patient_pk, 'patient');
  END IF;
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_id_delete BEFORE DELETE ON patient_id FOR EACH ROW
BEGIN
  DECLARE the_patient_pk BIGINT;
  DECLARE has_studies INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT i.patient_fk INTO the_patient_pk FROM patient_id i
   WHERE i.pk = OLD.pk AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = i.patient_fk AND j.pk < i.pk);
  IF the_patient_pk IS NULL THEN
    SELECT pk INTO the_patient_pk FROM patient WHERE patient_id_fk = OLD.pk;
  END IF;
  SELECT 1 INTO has_studies FROM study WHERE patient_fk = the_patient_pk LIMIT 1;
  IF has_studies THEN
    CALL indexer_process(the_patient_pk, 'patient');
  END IF;
END//

-- patient_fk and entity_id come and go with the archive's versions: read before and after, not named as OLD.x or NEW.x (see above).
CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_id_before BEFORE UPDATE ON patient_id FOR EACH ROW
BEGIN
  DECLARE failed INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION SET failed = 1;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SET @indexer_patient = NULL, @indexer_issuer = NULL;
  SELECT patient_fk, CAST(NULLIF(entity_id, '*') AS BINARY) INTO @indexer_patient, @indexer_issuer FROM patient_id WHERE pk = OLD.pk;
  IF failed THEN
    SELECT CAST(NULLIF(entity_id, '*') AS BINARY) INTO @indexer_issuer FROM patient_id WHERE pk = OLD.pk;
  END IF;
END//

-- An id may also go over to another patient, as in a merge: that concerns both. The archive's update to 5.31 gives each id the patient
-- that named it before: nothing changes by that.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_id_update AFTER UPDATE ON patient_id FOR EACH ROW
BEGIN
  DECLARE the_patient_pk, other_pk BIGINT;
  DECLARE now_issuer VARBINARY(1020);
  DECLARE has_studies, is_first, failed INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION SET failed = 1;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT patient_fk, CAST(NULLIF(entity_id, '*') AS BINARY) INTO the_patient_pk, now_issuer FROM patient_id WHERE pk = NEW.pk;
  IF failed THEN
    SELECT CAST(NULLIF(entity_id, '*') AS BINARY) INTO now_issuer FROM patient_id WHERE pk = NEW.pk;
  END IF;
  SET other_pk = @indexer_patient;
  IF other_pk IS NULL AND the_patient_pk IS NOT NULL THEN
    SELECT pk INTO other_pk FROM patient WHERE patient_id_fk = NEW.pk AND pk = the_patient_pk;
  END IF;
  IF NOT (other_pk <=> the_patient_pk AND now_issuer <=> @indexer_issuer
          AND CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)) THEN
    IF other_pk <> the_patient_pk OR the_patient_pk IS NULL THEN
      SELECT 1 INTO is_first FROM patient p WHERE p.pk = other_pk
         AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = p.pk AND j.pk < NEW.pk);
      IF is_first THEN
        CALL indexer_process(other_pk, 'patient');
      END IF;
    END IF;
    SET the_patient_pk = NULL;
    SELECT i.patient_fk INTO the_patient_pk FROM patient_id i
     WHERE i.pk = NEW.pk AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = i.patient_fk AND j.pk < i.pk);
    IF the_patient_pk IS NULL THEN
      SELECT pk INTO the_patient_pk FROM patient WHERE patient_id_fk = NEW.pk;
    END IF;
    SELECT 1 INTO has_studies FROM study WHERE patient_fk = the_patient_pk LIMIT 1;
    IF has_studies THEN
      CALL indexer_process(the_patient_pk, 'patient');
    END IF;
  END IF;
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_rejected_insert AFTER INSERT ON rejected_instance FOR EACH ROW
BEGIN
  DECLARE found_pk BIGINT;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT pk INTO found_pk FROM study WHERE study_iuid = NEW.study_iuid;
  IF found_pk IS NOT NULL THEN
    CALL indexer_process(found_pk, 'counted');
  END IF;
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_rejected_delete AFTER DELETE ON rejected_instance FOR EACH ROW
BEGIN
  DECLARE found_pk BIGINT;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  SELECT pk INTO found_pk FROM study WHERE study_iuid = OLD.study_iuid;
  IF found_pk IS NOT NULL THEN
    CALL indexer_process(found_pk, 'counted');
  END IF;
END//
DELIMITER ;
