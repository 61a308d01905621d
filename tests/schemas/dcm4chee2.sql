-- The tables of a DCM4CHEE 2.18 archive on MySQL that cdc_indexer reads or that decide about locks and foreign keys: patient,
-- study, series, instance, with the archive's types, keys and indexes. Left out: the other tables, and columns that only the
-- archive itself uses. As in the archive's own script, no character set is named: the database's default decides.

CREATE TABLE patient (
  pk            BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  merge_fk      BIGINT,
  pat_id        VARCHAR(250) BINARY,
  pat_id_issuer VARCHAR(250) BINARY,
  pat_name      VARCHAR(250) BINARY,
  pat_i_name    VARCHAR(250) BINARY,
  pat_p_name    VARCHAR(250) BINARY,
  pat_birthdate CHAR(8) BINARY,
  pat_sex       VARCHAR(250) BINARY,
  pat_custom1   VARCHAR(250) BINARY,
  pat_custom2   VARCHAR(250) BINARY,
  pat_custom3   VARCHAR(250) BINARY,
  created_time  DATETIME,
  updated_time  DATETIME,
  pat_attrs     LONGBLOB,
  FOREIGN KEY (merge_fk) REFERENCES patient (pk)
) ENGINE = InnoDB;
CREATE INDEX pat_merge_fk ON patient (merge_fk);
CREATE INDEX pat_id ON patient (pat_id(64), pat_id_issuer(64));
CREATE INDEX pat_name ON patient (pat_name(64));
CREATE INDEX pat_birthdate ON patient (pat_birthdate);

CREATE TABLE study (
  pk              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  patient_fk      BIGINT,
  study_iuid      VARCHAR(250) BINARY NOT NULL,
  study_id        VARCHAR(250) BINARY,
  study_datetime  DATETIME,
  accession_no    VARCHAR(250) BINARY,
  ref_physician   VARCHAR(250) BINARY,
  study_desc      VARCHAR(250) BINARY,
  study_custom1   VARCHAR(250) BINARY,
  study_custom2   VARCHAR(250) BINARY,
  study_custom3   VARCHAR(250) BINARY,
  study_status_id VARCHAR(250) BINARY,
  mods_in_study   VARCHAR(250) BINARY,
  cuids_in_study  VARCHAR(250) BINARY,
  num_series      INTEGER NOT NULL,
  num_instances   INTEGER NOT NULL,
  ext_retr_aet    VARCHAR(250) BINARY,
  retrieve_aets   VARCHAR(250) BINARY,
  fileset_iuid    VARCHAR(250) BINARY,
  fileset_id      VARCHAR(250) BINARY,
  availability    INTEGER NOT NULL,
  study_status    INTEGER NOT NULL,
  checked_time    DATETIME,
  updated_time    DATETIME,
  created_time    DATETIME,
  study_attrs     LONGBLOB,
  FOREIGN KEY (patient_fk) REFERENCES patient (pk)
) ENGINE = InnoDB;
CREATE INDEX patient_fk ON study (patient_fk);
CREATE UNIQUE INDEX study_iuid ON study (study_iuid);
CREATE INDEX study_id ON study (study_id(64));
CREATE INDEX study_datetime ON study (study_datetime);
CREATE INDEX accession_no ON study (accession_no(64));
CREATE INDEX study_desc ON study (study_desc(64));
CREATE INDEX study_status ON study (study_status);
CREATE INDEX study_checked ON study (checked_time);
CREATE INDEX study_created ON study (created_time);
CREATE INDEX study_updated ON study (updated_time);

CREATE TABLE series (
  pk            BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  study_fk      BIGINT,
  series_iuid   VARCHAR(250) BINARY NOT NULL,
  series_no     VARCHAR(250) BINARY,
  modality      VARCHAR(250) BINARY,
  body_part     VARCHAR(250) BINARY,
  series_desc   VARCHAR(250) BINARY,
  institution   VARCHAR(250) BINARY,
  station_name  VARCHAR(250) BINARY,
  src_aet       VARCHAR(250) BINARY,
  num_instances INTEGER NOT NULL,
  availability  INTEGER NOT NULL,
  series_status INTEGER NOT NULL,
  created_time  DATETIME,
  updated_time  DATETIME,
  series_attrs  LONGBLOB,
  FOREIGN KEY (study_fk) REFERENCES study (pk)
) ENGINE = InnoDB;
CREATE INDEX study_fk ON series (study_fk);
CREATE UNIQUE INDEX series_iuid ON series (series_iuid);
CREATE INDEX series_modality ON series (modality(16));
CREATE INDEX series_created ON series (created_time);
CREATE INDEX series_updated ON series (updated_time);

CREATE TABLE instance (
  pk               BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  series_fk        BIGINT,
  sop_iuid         VARCHAR(250) BINARY NOT NULL,
  sop_cuid         VARCHAR(250) BINARY,
  inst_no          VARCHAR(250) BINARY,
  content_datetime DATETIME,
  availability     INTEGER NOT NULL,
  inst_status      INTEGER NOT NULL,
  all_attrs        BIT NOT NULL,
  commitment       BIT NOT NULL,
  created_time     DATETIME,
  updated_time     DATETIME,
  inst_attrs       LONGBLOB,
  FOREIGN KEY (series_fk) REFERENCES series (pk)
) ENGINE = InnoDB;
CREATE INDEX series_fk ON instance (series_fk);
CREATE UNIQUE INDEX sop_iuid ON instance (sop_iuid);
CREATE INDEX sop_cuid ON instance (sop_cuid(64));
CREATE INDEX inst_created ON instance (created_time);
CREATE INDEX inst_updated ON instance (updated_time);
