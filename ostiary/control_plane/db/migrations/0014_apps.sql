-- What is told of an app, and whether the platform approves of it. Guarantees: apps of before are approved, and their keys work
-- as they did; every change of the approval gives each key of the app a new revision and announces it, in the transaction of
-- the change, so that gateways hear of it as of a revocation, by the feed of keys that they follow already.

ALTER TABLE apps
    ADD COLUMN website          text CHECK (length(website) BETWEEN 1 AND 500),
    ADD COLUMN redirect_uris    text[] NOT NULL DEFAULT '{}' CHECK (cardinality(redirect_uris) <= 20),
    ADD COLUMN environment      text NOT NULL DEFAULT 'live' CHECK (environment IN ('live', 'test')),
    ADD COLUMN approval         text NOT NULL DEFAULT 'approved'
        CHECK (approval IN ('pending', 'approved', 'rejected', 'suspended')),
    ADD COLUMN approval_reason  text CHECK (length(approval_reason) BETWEEN 1 AND 500),
    ADD COLUMN approval_by      text CHECK (length(approval_by) BETWEEN 1 AND 200),  -- NULL: nobody has decided yet
    ADD COLUMN approval_at      timestamptz;

-- What waits for a decision is asked for often, and is few.
CREATE INDEX apps_not_approved ON apps (approval, created_at DESC, id DESC) WHERE approval <> 'approved';

-- The row is written as it is: its own trigger gives the revision and tells.
CREATE FUNCTION announce_app_approval() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys SET revision = revision WHERE app_id = NEW.id AND revoked_at IS NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER apps_announce_approval AFTER UPDATE OF approval ON apps
    FOR EACH ROW WHEN (OLD.approval IS DISTINCT FROM NEW.approval) EXECUTE FUNCTION announce_app_approval();

-- Guarantees that only what is revoked or expired goes, whoever asks: the service's role may delete no key otherwise.
CREATE FUNCTION apps_delete_ended_keys(of_app uuid) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    DELETE FROM api_keys WHERE app_id = of_app AND (revoked_at IS NOT NULL OR expires_at <= now())
$$;
REVOKE EXECUTE ON FUNCTION apps_delete_ended_keys FROM PUBLIC;
-- It finds nothing that its caller put in the way.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION apps_delete_ended_keys SET search_path = %I, pg_temp', current_schema());
END $$;
