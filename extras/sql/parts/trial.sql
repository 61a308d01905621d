-- Once all the way that a study will go, with the triggers' rights, on a table of its own, and taken back. A trigger on the archive's
-- tables would not say what is wrong; here it does, and the script ends.
DROP TABLE IF EXISTS indexer_trial;
CREATE TABLE indexer_trial (number BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB;
CALL indexer_install_rights('SELECT, INSERT, UPDATE, TRIGGER', 'indexer_trial');
DELIMITER //
CREATE DEFINER = CURRENT_USER TRIGGER indexer_trial AFTER INSERT ON indexer_trial FOR EACH ROW
BEGIN
  CALL indexer_process(NEW.number, 'stored');
  CALL indexer_process(NEW.number, 'patient');
END//
DELIMITER ;
-- %mariadb
SELECT MAX(study_pk) INTO @indexer_newest FROM (SELECT study_pk FROM indexer_study ORDER BY study_pk DESC LIMIT 1) newest;
START TRANSACTION;
INSERT INTO indexer_trial VALUES (COALESCE(@indexer_newest, 0));
ROLLBACK;
DROP TABLE indexer_trial;
