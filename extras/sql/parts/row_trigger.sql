DROP TRIGGER IF EXISTS indexer_row;
DELIMITER //
CREATE DEFINER = CURRENT_USER TRIGGER indexer_row BEFORE INSERT ON study_service FOR EACH ROW
BEGIN
  IF NEW.id = 0 THEN
    SET NEW.id = UUID_SHORT();
  END IF;
  -- A session that isn't strict gives a row by hand the date '0000-00-00'.
  IF NEW.recorded_at IS NULL OR NEW.recorded_at < '1971-01-01' THEN
    SET NEW.recorded_at = {{now}};
  END IF;
END//
DELIMITER ;
