-- cdc_indexer: takes back everything that add_indexer.sql or add_indexer_arc5.sql has added.
--
--   cdc-indexer sql --remove | mysql pacsdb     (pacsdb: the archive's database; as root, or with the rights that adding it needs)
--   mysql pacsdb < FILE                         (the same, where the program isn't: FILE is what `cdc-indexer sql --remove` has printed)
--
-- Stop the service first. THE ROWS OF study_service GO WITH THEIR TABLE: what the service has not sent yet is not sent any more.
-- (If the index is to have them, wait until `cdc-indexer status` says that nothing waits.)
--
-- The archive may be in use meanwhile. Every statement gives up after 2 seconds when it has to wait for a lock; the
-- archive then goes on as before, and you run the script again. It can be run as often as you like.
--
-- The archive's own tables are left exactly as they were before, its own account keeps only the rights that it had. The account
-- without a login is dropped, unless another database of this server still uses it. That of the service was made by hand, and so
-- it is dropped:
--   DROP USER 'indexer'@'localhost';
-- event_scheduler and the settings of the binary log in my.cnf are yours to put back.

SET NAMES utf8mb4;
SET SESSION autocommit = 1;
SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION';
SET SESSION lock_wait_timeout = 2;

-- The account to which the triggers belong: the script may have given it rights.
SET @indexer_account = NULL;
SELECT CONCAT('''', LEFT(DEFINER, CHAR_LENGTH(DEFINER) - CHAR_LENGTH(SUBSTRING_INDEX(DEFINER, '@', -1)) - 1), '''@''',
              SUBSTRING_INDEX(DEFINER, '@', -1), '''') INTO @indexer_account
  FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'indexer_study';

-- First the triggers: from here on the archive knows nothing of the rest.
DROP TRIGGER IF EXISTS indexer_process;
DROP TRIGGER IF EXISTS indexer_study_insert;
DROP TRIGGER IF EXISTS indexer_study_update;
DROP TRIGGER IF EXISTS indexer_study_delete;
DROP TRIGGER IF EXISTS indexer_patient_update;
DROP TRIGGER IF EXISTS indexer_instance_insert;
DROP TRIGGER IF EXISTS indexer_instance_delete;
DROP TRIGGER IF EXISTS indexer_series_insert;
DROP TRIGGER IF EXISTS indexer_series_update;
DROP TRIGGER IF EXISTS indexer_series_delete;
DROP TRIGGER IF EXISTS indexer_rejected_insert;
DROP TRIGGER IF EXISTS indexer_rejected_delete;
DROP TRIGGER IF EXISTS indexer_patient_before;
DROP TRIGGER IF EXISTS indexer_patient_id_insert;
DROP TRIGGER IF EXISTS indexer_patient_id_before;
DROP TRIGGER IF EXISTS indexer_patient_id_update;
DROP TRIGGER IF EXISTS indexer_patient_id_delete;
DROP TRIGGER IF EXISTS indexer_person_name_update;
DROP TRIGGER IF EXISTS indexer_row;
DROP EVENT IF EXISTS indexer_prune;
DROP PROCEDURE IF EXISTS indexer_prune;
DROP PROCEDURE IF EXISTS indexer_process;
DROP VIEW IF EXISTS indexer_study;
DROP TABLE IF EXISTS study_service;

-- What an interrupted add_indexer.sql may have left.
DROP PROCEDURE IF EXISTS indexer_install_account;
DROP PROCEDURE IF EXISTS indexer_install_rights;
DROP PROCEDURE IF EXISTS indexer_install_table_rights;
DROP PROCEDURE IF EXISTS indexer_install_definer;
DROP PROCEDURE IF EXISTS indexer_install_named;
DROP PROCEDURE IF EXISTS indexer_install_compared;
DROP PROCEDURE IF EXISTS indexer_install_old_account;
DROP PROCEDURE IF EXISTS indexer_install_rejected;
DROP PROCEDURE IF EXISTS indexer_install_window;
DROP PROCEDURE IF EXISTS indexer_install_table;
DROP VIEW IF EXISTS indexer_window_now;
DROP TABLE IF EXISTS indexer_trial, indexer_window, indexer_window_new, study_service_new, study_service_old;

DROP PROCEDURE IF EXISTS indexer_remove_rejected;
DROP PROCEDURE IF EXISTS indexer_remove_rights;
DROP PROCEDURE IF EXISTS indexer_remove_account;
DELIMITER //
CREATE PROCEDURE indexer_remove_rejected()
BEGIN
  IF EXISTS (SELECT 1 FROM information_schema.TABLES
      WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'rejected_instance' AND TABLE_COMMENT = 'cdc_indexer') THEN
    DROP TABLE rejected_instance;
  END IF;
END//
-- Rights of the archive's account, one by one: all of them on what was ours, and TRIGGER on the archive's tables.
CREATE PROCEDURE indexer_remove_rights()
BEGIN
  DECLARE the_table VARCHAR(64) CHARACTER SET utf8mb4;
  DECLARE the_right VARCHAR(64) CHARACTER SET utf8mb4;
  DECLARE done INT DEFAULT 0;
  DECLARE rights_read CURSOR FOR
    SELECT TABLE_NAME, PRIVILEGE_TYPE FROM information_schema.TABLE_PRIVILEGES
     WHERE GRANTEE = @indexer_account AND TABLE_SCHEMA = DATABASE()
       AND (PRIVILEGE_TYPE = 'TRIGGER' OR TABLE_NAME IN ('study_service', 'indexer_study', 'indexer_trial'));
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET done = 1;
  OPEN rights_read;
  FETCH rights_read INTO the_table, the_right;
  WHILE NOT done DO
    SET @indexer_sql = CONCAT('REVOKE ', the_right, ' ON `', the_table, '` FROM ', @indexer_account);
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    FETCH rights_read INTO the_table, the_right;
  END WHILE;
  CLOSE rights_read;
END//
CREATE PROCEDURE indexer_remove_account(IN user_name VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  DECLARE account VARCHAR(100) CHARACTER SET utf8mb4 DEFAULT CONCAT('''', user_name, '''@''localhost''');
  DECLARE definer_name VARCHAR(100) CHARACTER SET utf8mb4 DEFAULT CONCAT(user_name, '@localhost');
  DECLARE table_with_rights VARCHAR(64) CHARACTER SET utf8mb4;
  DECLARE done INT DEFAULT 0;
  DECLARE tables_with_rights CURSOR FOR
    SELECT DISTINCT TABLE_NAME FROM information_schema.TABLE_PRIVILEGES WHERE GRANTEE = account AND TABLE_SCHEMA = DATABASE();
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET done = 1;

  IF EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = account) THEN
    IF EXISTS (SELECT 1 FROM information_schema.TRIGGERS WHERE DEFINER = definer_name)
       OR EXISTS (SELECT 1 FROM information_schema.ROUTINES WHERE DEFINER = definer_name) THEN
      -- Another archive on this server: the account stays, without its rights on this one.
      OPEN tables_with_rights;
      FETCH tables_with_rights INTO table_with_rights;
      WHILE NOT done DO
        SET @indexer_sql = CONCAT('REVOKE ALL PRIVILEGES ON `', table_with_rights, '` FROM ', account);
        PREPARE indexer_statement FROM @indexer_sql;
        EXECUTE indexer_statement;
        FETCH tables_with_rights INTO table_with_rights;
      END WHILE;
      CLOSE tables_with_rights;
      IF EXISTS (SELECT 1 FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = account AND TABLE_SCHEMA = DATABASE()) THEN
        SET @indexer_sql = CONCAT('REVOKE ALL PRIVILEGES ON * FROM ', account);
        PREPARE indexer_statement FROM @indexer_sql;
        EXECUTE indexer_statement;
      END IF;
    ELSE
      SET @indexer_sql = CONCAT('DROP USER ', account);
      PREPARE indexer_statement FROM @indexer_sql;
      EXECUTE indexer_statement;
    END IF;
  END IF;
END//
DELIMITER ;
CALL indexer_remove_rejected();
DROP PROCEDURE indexer_remove_rejected;
CALL indexer_remove_rights();
DROP PROCEDURE indexer_remove_rights;
CALL indexer_remove_account('indexer_trigger');
CALL indexer_remove_account('indexer_definer');
DROP PROCEDURE indexer_remove_account;

SELECT CONCAT('cdc_indexer is removed from ', DATABASE(), '.') AS '';
