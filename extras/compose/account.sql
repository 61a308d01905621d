-- The indexer's account, as the README makes it; its password is the one in indexer_password.
CREATE USER 'indexer'@'%' IDENTIFIED BY 'demo-indexer-password';
GRANT SELECT ON pacsdb.study_service TO 'indexer'@'%';
GRANT SELECT ON pacsdb.indexer_study TO 'indexer'@'%';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'indexer'@'%';
