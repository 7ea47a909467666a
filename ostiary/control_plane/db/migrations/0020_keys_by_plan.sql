-- Who has a plan is asked before it is deleted, and which plans an app's keys have when its quotas are shown. Guarantees: both
-- read the keys in question and no others.
CREATE INDEX api_keys_by_plan ON api_keys (plan, app_id) WHERE revoked_at IS NULL;
