CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_before BEFORE UPDATE ON patient FOR EACH ROW
BEGIN
  SET @indexer_patient_id = NULL;
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_id_before BEFORE UPDATE ON patient_id FOR EACH ROW
BEGIN
END//

CREATE DEFINER = CURRENT_USER TRIGGER indexer_patient_id_update AFTER UPDATE ON patient_id FOR EACH ROW
BEGIN
  DECLARE is_first, has_studies INT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;
  DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
  IF NOT (OLD.patient_fk <=> NEW.patient_fk
          AND CAST(OLD.pat_id AS BINARY) <=> CAST(NEW.pat_id AS BINARY)
          AND CAST(NULLIF(OLD.entity_id, '*') AS BINARY) <=> CAST(NULLIF(NEW.entity_id, '*') AS BINARY)) THEN
    IF NOT OLD.patient_fk <=> NEW.patient_fk THEN
      SELECT 1 INTO is_first FROM patient p WHERE p.pk = OLD.patient_fk
         AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = p.pk AND j.pk < NEW.pk);
      IF is_first THEN
        CALL indexer_process(OLD.patient_fk, 'patient');
      END IF;
    END IF;
    SET is_first = 0;
    SELECT 1 INTO is_first FROM patient p WHERE p.pk = NEW.patient_fk
       AND NOT EXISTS (SELECT 1 FROM patient_id j WHERE j.patient_fk = p.pk AND j.pk < NEW.pk);
    SELECT 1 INTO has_studies FROM study WHERE patient_fk = NEW.patient_fk LIMIT 1;
    IF is_first AND has_studies THEN
      CALL indexer_process(NEW.patient_fk, 'patient');
    END IF;
  END IF;
END//
