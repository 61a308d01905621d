-- After dcm4chee_arc5.sql: the tables as they were before 5.31, when a patient had one id at most and named it.
ALTER TABLE patient_id DROP FOREIGN KEY patient_id_patient;
ALTER TABLE patient_id DROP COLUMN patient_fk;
ALTER TABLE patient ADD COLUMN patient_id_fk BIGINT;
ALTER TABLE patient ADD UNIQUE KEY patient_id_fk (patient_id_fk);
ALTER TABLE patient ADD FOREIGN KEY (patient_id_fk) REFERENCES patient_id (pk);
