DROP PROCEDURE IF EXISTS indexer_install_account;
DELIMITER //
CREATE PROCEDURE indexer_install_account(IN account VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  IF NOT EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = account) THEN
    SET @indexer_sql = CONCAT('CREATE USER ', account, ' IDENTIFIED BY ''',
                              SHA2(CONCAT(UUID(), RAND(), UUID_SHORT(), RAND()), 256), '-aZ''');
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    DEALLOCATE PREPARE indexer_statement;
    SET @indexer_sql = NULL;
  END IF;
END//
DELIMITER ;
CALL indexer_install_account('''indexer_definer''@''localhost''');
DROP PROCEDURE indexer_install_account;
/*!50706 ALTER USER 'indexer_definer'@'localhost' ACCOUNT LOCK */;
/*M!100402 ALTER USER 'indexer_definer'@'localhost' ACCOUNT LOCK */;
GRANT EVENT ON * TO 'indexer_definer'@'localhost';

-- What the archive's account lacks of the rights that the triggers need, table by table; mostly it has all of them on its database.
DROP PROCEDURE IF EXISTS indexer_install_rights;
DELIMITER //
CREATE PROCEDURE indexer_install_rights(IN rights VARCHAR(60) CHARACTER SET utf8mb4, IN the_object VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  DECLARE found INT;
  SELECT COUNT(DISTINCT PRIVILEGE_TYPE) INTO found
    FROM (SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = @indexer_account
          UNION ALL
          SELECT PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES
           WHERE GRANTEE = @indexer_account AND DATABASE() LIKE TABLE_SCHEMA) has
   WHERE PRIVILEGE_TYPE IN ('SELECT', 'INSERT', 'UPDATE', 'TRIGGER', 'EXECUTE');
  IF found < 5 THEN
    SET @indexer_sql = CONCAT('GRANT ', rights, ' ON ', the_object, ' TO ', @indexer_account);
    PREPARE indexer_statement FROM @indexer_sql;
    EXECUTE indexer_statement;
    DEALLOCATE PREPARE indexer_statement;
  END IF;
END//
DELIMITER ;
