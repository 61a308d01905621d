-- The tables of a dcm4chee-arc 5 archive (5.31 and later) on MySQL that cdc_indexer reads or that decide about locks and foreign
-- keys, with the archive's names, types, keys and the indexes that matter. Written from what the archive's own scripts say of
-- them; left out are the other tables, and most columns that only the archive itself uses.
-- dcm4chee_arc5_before_5.31.sql, run after this, turns it into the older variant. As in the archive's own script, no character
-- set is named: the database's default decides.

CREATE TABLE person_name (
  pk               BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  alphabetic_name  VARCHAR(255) NOT NULL,
  ideographic_name VARCHAR(255) NOT NULL,
  phonetic_name    VARCHAR(255) NOT NULL,
  KEY alphabetic_name (alphabetic_name(64))
) ENGINE = InnoDB;

CREATE TABLE patient (
  pk                   BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  created_time         DATETIME(6) NOT NULL,
  updated_time         DATETIME(6) NOT NULL,
  failed_verifications INTEGER NOT NULL,
  verification_status  INTEGER NOT NULL,
  num_studies          INTEGER NOT NULL,
  pat_birthdate        VARCHAR(255) NOT NULL,
  pat_sex              VARCHAR(255) NOT NULL,
  version              BIGINT,
  merge_fk             BIGINT,
  pat_name_fk          BIGINT,
  resp_person_fk       BIGINT,
  UNIQUE KEY pat_name_fk (pat_name_fk),
  UNIQUE KEY resp_person_fk (resp_person_fk),
  KEY num_studies (num_studies),
  FOREIGN KEY (merge_fk) REFERENCES patient (pk),
  FOREIGN KEY (pat_name_fk) REFERENCES person_name (pk),
  FOREIGN KEY (resp_person_fk) REFERENCES person_name (pk)
) ENGINE = InnoDB;

CREATE TABLE patient_id (
  pk               BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  pat_id           VARCHAR(255) NOT NULL,
  pat_id_type_code VARCHAR(255),
  entity_id        VARCHAR(255),
  entity_uid       VARCHAR(255),
  entity_uid_type  VARCHAR(255),
  version          BIGINT,
  patient_fk       BIGINT,
  KEY pat_id (pat_id(64)),
  CONSTRAINT patient_id_patient FOREIGN KEY (patient_fk) REFERENCES patient (pk)
) ENGINE = InnoDB;

CREATE TABLE study (
  pk               BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  access_time      DATETIME(6) NOT NULL,
  created_time     DATETIME(6) NOT NULL,
  modified_time    DATETIME(6) NOT NULL,
  updated_time     DATETIME(6) NOT NULL,
  accession_no     VARCHAR(255) NOT NULL,
  completeness     INTEGER NOT NULL,
  expiration_state INTEGER NOT NULL,
  ext_retrieve_aet VARCHAR(255) NOT NULL,
  failed_retrieves INTEGER NOT NULL,
  rejection_state  INTEGER NOT NULL,
  storage_ids      VARCHAR(255),
  study_size       BIGINT NOT NULL,
  study_date       VARCHAR(255) NOT NULL,
  study_time       VARCHAR(255) NOT NULL,
  study_desc       VARCHAR(255) NOT NULL,
  study_id         VARCHAR(255) NOT NULL,
  study_iuid       VARCHAR(255) NOT NULL,
  version          BIGINT,
  patient_fk       BIGINT NOT NULL,
  UNIQUE KEY study_iuid (study_iuid),
  KEY access_time (access_time),
  KEY study_date (study_date(64)),
  KEY accession_no (accession_no(64)),
  KEY study_desc (study_desc(64)),
  KEY study_size (study_size),
  FOREIGN KEY (patient_fk) REFERENCES patient (pk)
) ENGINE = InnoDB;

CREATE TABLE study_query_attrs (
  pk             BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  availability   INTEGER,
  mods_in_study  VARCHAR(255),
  num_instances  INTEGER,
  num_series     INTEGER,
  retrieve_aets  VARCHAR(255),
  cuids_in_study VARCHAR(4000),
  view_id        VARCHAR(255),
  study_fk       BIGINT NOT NULL,
  UNIQUE KEY view_id (view_id, study_fk),
  FOREIGN KEY (study_fk) REFERENCES study (pk)
) ENGINE = InnoDB;

CREATE TABLE series (
  pk                   BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  created_time         DATETIME(6) NOT NULL,
  modified_time        DATETIME(6) NOT NULL,
  updated_time         DATETIME(6) NOT NULL,
  inst_purge_state     INTEGER NOT NULL,
  inst_purge_time      DATETIME(6),
  metadata_update_time DATETIME(6),
  modality             VARCHAR(255) NOT NULL,
  rejection_state      INTEGER NOT NULL,
  series_desc          VARCHAR(255) NOT NULL,
  series_iuid          VARCHAR(255) NOT NULL,
  series_size          BIGINT NOT NULL,
  version              BIGINT,
  study_fk             BIGINT NOT NULL,
  UNIQUE KEY series_of_study (study_fk, series_iuid),
  KEY series_iuid (series_iuid(64)),
  KEY modality (modality(64)),
  KEY rejection_state (rejection_state),
  KEY metadata_update_time (metadata_update_time),
  FOREIGN KEY (study_fk) REFERENCES study (pk)
) ENGINE = InnoDB;

CREATE TABLE series_query_attrs (
  pk              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  availability    INTEGER,
  num_instances   INTEGER,
  retrieve_aets   VARCHAR(255),
  cuids_in_series VARCHAR(255),
  view_id         VARCHAR(255),
  series_fk       BIGINT NOT NULL,
  UNIQUE KEY view_id (view_id, series_fk),
  FOREIGN KEY (series_fk) REFERENCES series (pk)
) ENGINE = InnoDB;

CREATE TABLE instance (
  pk               BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  availability     INTEGER NOT NULL,
  content_date     VARCHAR(255) NOT NULL,
  created_time     DATETIME(6) NOT NULL,
  updated_time     DATETIME(6) NOT NULL,
  ext_retrieve_aet VARCHAR(255) NOT NULL,
  inst_no          INTEGER,
  sop_cuid         VARCHAR(255) NOT NULL,
  sop_iuid         VARCHAR(255) NOT NULL,
  version          BIGINT,
  series_fk        BIGINT NOT NULL,
  UNIQUE KEY instance_of_series (series_fk, sop_iuid),
  KEY sop_iuid (sop_iuid(64)),
  KEY sop_cuid (sop_cuid(64)),
  KEY inst_no (inst_no),
  KEY content_date (content_date(64)),
  FOREIGN KEY (series_fk) REFERENCES series (pk)
) ENGINE = InnoDB;

CREATE TABLE rejected_instance (
  pk             BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  created_time   DATETIME(6) NOT NULL,
  series_iuid    VARCHAR(255) NOT NULL,
  sop_cuid       VARCHAR(255) NOT NULL,
  sop_iuid       VARCHAR(255) NOT NULL,
  study_iuid     VARCHAR(255) NOT NULL,
  reject_code_fk BIGINT,
  UNIQUE KEY uids (study_iuid, series_iuid, sop_iuid),
  KEY created_time (created_time)
) ENGINE = InnoDB;
