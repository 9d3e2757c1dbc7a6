-- What ended a credential's holds last, and whether one submit at a time still tries if it is taken again.
ALTER TABLE credentials ADD COLUMN resumed_at BIGINT;
ALTER TABLE credentials ADD COLUMN on_trial SMALLINT NOT NULL DEFAULT 0;
