-- What ended a credential's holds last, and whether one submit at a time still tries if it is taken again.
ALTER TABLE credentials ADD COLUMN resumed_at INTEGER;
ALTER TABLE credentials ADD COLUMN on_trial INTEGER NOT NULL DEFAULT 0;
