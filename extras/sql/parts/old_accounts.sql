-- An earlier version of this script had an account for the triggers, without which every change of a study failed.
DROP PROCEDURE indexer_install_definer;
DROP PROCEDURE indexer_install_rights;
DROP PROCEDURE IF EXISTS indexer_install_old_account;
DELIMITER //
CREATE PROCEDURE indexer_install_old_account()
BEGIN
  IF EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = '''indexer_trigger''@''localhost''')
     AND NOT EXISTS (SELECT 1 FROM information_schema.TRIGGERS WHERE DEFINER = 'indexer_trigger@localhost') THEN
    DROP USER 'indexer_trigger'@'localhost';
  END IF;
END//
DELIMITER ;
CALL indexer_install_old_account();
DROP PROCEDURE indexer_install_old_account;
