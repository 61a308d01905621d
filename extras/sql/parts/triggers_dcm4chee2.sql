DELIMITER //
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_insert AFTER INSERT ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NEW.patient_fk IS NOT NULL THEN
    CALL indexer_process(NEW.pk, 'stored');
  END IF;
END//

-- DCM4CHEE 2.x inserts a study without its patient, and sets the patient in the same transaction; before it deletes a patient it
-- takes the patient from his studies. A study without a patient counts as deleted, until it has one.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_update AFTER UPDATE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL
     AND (NEW.patient_fk IS NULL OR CAST(OLD.study_iuid AS BINARY) <> CAST(NEW.study_iuid AS BINARY)) THEN
    {{record 'deleted', OLD.pk, OLD.study_iuid}}
  END IF;
  IF NEW.patient_fk IS NOT NULL THEN
    IF OLD.patient_fk IS NULL THEN
      CALL indexer_process(NEW.pk, 'stored');
    ELSEIF NOT (OLD.patient_fk = NEW.patient_fk
                AND OLD.num_instances <=> NEW.num_instances
                AND OLD.num_series <=> NEW.num_series
                AND OLD.study_datetime <=> NEW.study_datetime
                AND CAST(OLD.study_iuid AS BINARY) <=> CAST(NEW.study_iuid AS BINARY)
                AND CAST(OLD.study_desc AS BINARY) <=> CAST(NEW.study_desc AS BINARY)
                AND CAST(OLD.mods_in_study AS BINARY) <=> CAST(NEW.mods_in_study AS BINARY)
                AND CAST(OLD.accession_no AS BINARY) <=> CAST(NEW.accession_no AS BINARY)) THEN
      CALL indexer_process(NEW.pk, 'changed');
    END IF;
  END IF;
END//

-- Key and UID, and nothing from the view: that may lack the study. One without a patient is recorded as deleted already.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_study_delete BEFORE DELETE ON study FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF OLD.patient_fk IS NOT NULL THEN
    {{record 'deleted', OLD.pk, OLD.study_iuid}}
  END IF;
END//

-- One row for the patient; the service finds the patient's studies. Recording 5,000 studies here would cost half a second.
CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_update AFTER UPDATE ON patient FOR EACH ROW
BEGIN
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  IF NOT (CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)
          AND CAST(OLD.pat_id_issuer AS BINARY) <=> CAST(NEW.pat_id_issuer AS BINARY)
          AND CAST(OLD.pat_name AS BINARY) <=> CAST(NEW.pat_name AS BINARY)) THEN
    CALL indexer_process(NEW.pk, 'patient');
  END IF;
END//
DELIMITER ;
