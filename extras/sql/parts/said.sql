-- On MariaDB it is known, and the catalogue isn't asked (see indexer_install_definer).
SET @indexer_sql = IF(@indexer_dynamic, 'SELECT REPLACE(@indexer_account, '''''''', '''') INTO @indexer_given',
  'SELECT GROUP_CONCAT(DISTINCT DEFINER) INTO @indexer_given
     FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE() AND TRIGGER_NAME LIKE ''indexer\_%''');
PREPARE indexer_statement FROM @indexer_sql;
EXECUTE indexer_statement;
DEALLOCATE PREPARE indexer_statement;
SELECT CONCAT('cdc_indexer is installed in ', DATABASE(), '.') AS ''
UNION ALL
SELECT CONCAT('The triggers run with the rights of ', @indexer_given, '. If the archive logs in as another account, put',
              ' SET @indexer_definer = ''user@host''; before the file and run it again.')
UNION ALL
SELECT CONCAT('This server takes no account from a variable, so they are not those of ', REPLACE(@indexer_account, '''', ''),
              '. A line that makes them so, with the program or beside this file:')
  FROM DUAL WHERE @indexer_given <> REPLACE(@indexer_account, '''', '')
UNION ALL
SELECT CONCAT('cdc-indexer sql ', IF(@indexer_file LIKE '%arc5%', '--arc5 ', ''), '--definer ''', REPLACE(@indexer_account, '''', ''),
              ''' | mysql ', DATABASE())
  FROM DUAL WHERE @indexer_file IS NOT NULL AND @indexer_given <> REPLACE(@indexer_account, '''', '')
UNION ALL
SELECT CONCAT('(echo "SET @indexer_definer = ''', REPLACE(@indexer_account, '''', ''), ''';"; sed "s/DEFINER = ', 'CURRENT_USER/DEFINER = ',
              @indexer_account, '/" ', COALESCE(CONCAT('extras/', @indexer_file), 'install.sql'), ') | mysql ', DATABASE())
  FROM DUAL WHERE @indexer_given <> REPLACE(@indexer_account, '''', '')
UNION ALL
SELECT 'event_scheduler is not ON: rows older than 400 days stay until it is.' FROM DUAL WHERE @@event_scheduler <> 'ON'
UNION ALL
SELECT 'binlog_format is not ROW: the archive may wait for locks. SET GLOBAL binlog_format = ROW, and put it into my.cnf.'
  FROM DUAL WHERE @@GLOBAL.log_bin AND @@GLOBAL.binlog_format <> 'ROW';
