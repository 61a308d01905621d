
-- Studies that got an image: whatever came while the triggers were off has a higher key than what there was before.
INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  SELECT UUID_SHORT(), 'changed', NULL, NULL, NULL, s.pk, s.study_iuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL, UTC_TIMESTAMP(6)
    FROM (SELECT DISTINCT r.study_fk
            FROM indexer_window f
            JOIN instance o ON o.pk > f.instance_pk
            JOIN series r ON r.pk = o.series_fk
           WHERE f.study_pk = 0) got
    JOIN study s ON s.pk = got.study_fk
    JOIN indexer_window w ON w.study_pk = s.pk
   WHERE NOT EXISTS (SELECT 1 FROM study_service l WHERE l.study_pk = s.pk AND l.recorded_at >= @indexer_triggers_on);
