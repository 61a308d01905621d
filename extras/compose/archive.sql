-- The archive's own account: the triggers belong to it. The simulated archive logs in as root, which may do the same.
CREATE USER 'pacs'@'%' IDENTIFIED BY 'demo-pacs-password';
GRANT ALL ON pacsdb.* TO 'pacs'@'%';
