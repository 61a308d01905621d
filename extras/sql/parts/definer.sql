-- What can't work is found before anything is changed. The triggers need 192 kB of stack (thread_stack) at least: with less,
-- every transaction of the archive would fail with error 1436.
SET @indexer_problem = IF(@@GLOBAL.thread_stack < 196608,
  CONCAT('thread_stack is ', @@GLOBAL.thread_stack DIV 1024, 'K: put thread_stack = 256K into my.cnf and restart the server'), NULL);

-- Whose rights have the triggers? Those of the account that the archive itself logs in with: without that one it can't work anyway.
-- @indexer_definer names it ('pacs@%'); else it is the one account that may INSERT into this database, not counting root and
-- its like. Only where nobody else could be the archive (it logs in as root) is it root.
SET @indexer_candidate = NULL, @indexer_found = 0,
    @indexer_definer = NULLIF(TRIM(REPLACE(REPLACE(REPLACE(@indexer_definer, '''', ''), '"', ''), '`', '')), '');
SELECT COUNT(DISTINCT grantee), GROUP_CONCAT(DISTINCT grantee ORDER BY grantee SEPARATOR ' ')
  INTO @indexer_found, @indexer_candidate
  FROM (SELECT GRANTEE AS grantee FROM information_schema.SCHEMA_PRIVILEGES
         WHERE PRIVILEGE_TYPE = 'INSERT' AND DATABASE() LIKE TABLE_SCHEMA
        UNION
        SELECT GRANTEE FROM information_schema.TABLE_PRIVILEGES
         WHERE PRIVILEGE_TYPE = 'INSERT' AND TABLE_SCHEMA = DATABASE() AND TABLE_NAME <> 'study_service') may_insert
 WHERE TRIM(BOTH '''' FROM SUBSTRING_INDEX(grantee, '@', 1)) NOT IN ('', 'PUBLIC', {{ours and root}});
SELECT COUNT(DISTINCT GRANTEE), GROUP_CONCAT(DISTINCT GRANTEE ORDER BY GRANTEE SEPARATOR ' ')
  INTO @indexer_everywhere, @indexer_candidate_everywhere
  FROM information_schema.USER_PRIVILEGES
 WHERE PRIVILEGE_TYPE = 'INSERT'
   AND TRIM(BOTH '''' FROM SUBSTRING_INDEX(GRANTEE, '@', 1)) NOT IN ('', 'PUBLIC', {{ours and root}});
SET @indexer_candidate = IF(@indexer_found > 0, @indexer_candidate, @indexer_candidate_everywhere),
    @indexer_found = IF(@indexer_found > 0, @indexer_found, @indexer_everywhere);
SET @indexer_runs_as = CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''');
SET @indexer_root = @indexer_runs_as;
SELECT GRANTEE INTO @indexer_root FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = '''root''@''localhost''' LIMIT 1;
SET @indexer_account = CASE
      WHEN @indexer_definer IS NULL AND @indexer_found = 1 THEN @indexer_candidate
      WHEN @indexer_definer IS NULL THEN @indexer_root
      WHEN LOCATE('@', @indexer_definer) = 0 THEN CONCAT('''', @indexer_definer, '''@''%''')
      ELSE CONCAT('''', LEFT(@indexer_definer, CHAR_LENGTH(@indexer_definer) - CHAR_LENGTH(SUBSTRING_INDEX(@indexer_definer, '@', -1)) - 1),
                  '''@''', SUBSTRING_INDEX(@indexer_definer, '@', -1), '''') END,
    @indexer_line = CONCAT('SET @indexer_definer = ''', REPLACE(SUBSTRING_INDEX(@indexer_candidate, ' ', 1), '''', ''), ''';');
SET @indexer_problem = CASE
      WHEN @indexer_problem IS NOT NULL THEN @indexer_problem
      WHEN @indexer_definer IS NULL AND @indexer_found > 1
        THEN CONCAT('nothing is changed; several accounts could be the archive: name the right one in a line before the file such as ',
                    @indexer_line)
      WHEN NOT EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = @indexer_account)
        THEN CONCAT('nothing is changed; there is no account ', REPLACE(@indexer_account, '''', ''),
                    ': name the one that the archive logs in with before the file: SET @indexer_definer = ''user@host'';') END;
-- Each in a row of its own: the client writes the end of a line inside a value as \n.
SELECT 'Nothing is changed. Which account does the archive log in with? One of these lines before the file says it:' AS ''
  FROM DUAL WHERE @indexer_definer IS NULL AND @indexer_found > 1
UNION ALL
SELECT CONCAT('SET @indexer_definer = ''', REPLACE(SUBSTRING_INDEX(SUBSTRING_INDEX(@indexer_candidate, ' ', n), ' ', -1), '''', ''), ''';')
  FROM (SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6) numbers
 WHERE @indexer_definer IS NULL AND @indexer_found > 1 AND n <= @indexer_found;
-- A mode of that name doesn't exist: the script ends here, with the problem as the server's message.
SET SESSION sql_mode = COALESCE(@indexer_problem, @@SESSION.sql_mode);

-- MySQL, and MariaDB before 10.6.2, take no account's name out of a variable when they make a trigger. There the triggers belong to
-- who runs this script, as it says DEFINER = CURRENT_USER (MySQL 8.0.29 and later: for the archive's usual account, pacs,
-- they are made once more below). For another: sed "s/DEFINER = CURRENT_USER/DEFINER = 'user'@'host'/" FILE | mysql pacsdb
SET @indexer_dynamic = FALSE;
/*M!100602 SET @indexer_dynamic = TRUE */;
