-- What the old client (a cron job) had in the archive's database: a queue of one column, filled by a trigger.
CREATE TABLE study_service (study_pk INT PRIMARY KEY);

DELIMITER //
CREATE TRIGGER indexer_process AFTER INSERT ON study FOR EACH ROW
BEGIN
  INSERT INTO study_service VALUES (NEW.pk);
END//
DELIMITER ;
