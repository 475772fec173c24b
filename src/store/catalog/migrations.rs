//! The versions of the catalog's tables (`PRAGMA user_version`).

use rusqlite::Connection;

use super::fault::Fault;
use crate::error::Error;
use crate::sys::durable::{self, Step};

/// `PRAGMA application_id` of a catalog: "fold".
pub(super) const APPLICATION_ID: i32 = 0x666f_6c64;

/// Step k takes the tables from version k to version k + 1; the first one creates them.
/// Steps that have been released are never edited.
const STEPS: &[&str] = &[include_str!("schema_1.sql")];

/// Creates the tables of the current version in an empty database.
pub(super) fn create(connection: &Connection) -> Result<(), Fault> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    run(connection, 0, STEPS)
}

/// Brings the tables to the current version. `may_write`: otherwise an older version is refused.
pub(super) fn bring_up(connection: &Connection, may_write: bool) -> Result<(), Fault> {
    bring_up_to(connection, may_write, STEPS)
}

fn bring_up_to(connection: &Connection, may_write: bool, steps: &[&str]) -> Result<(), Fault> {
    let object = || connection.path().unwrap_or("catalog.db").to_owned();
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION_ID {
        return Err(Error::failed(object(), "it is not a foldfs catalog")
            .remedy("`foldfs check --repair` restores it from catalog.bak")
            .into());
    }
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match usize::try_from(found) {
        Ok(version) if version == steps.len() => Ok(()),
        Ok(version) if (1..steps.len()).contains(&version) => {
            if may_write {
                return run(connection, version, steps);
            }
            Err(
                Error::failed(object(), format!("its tables have the old version {found}"))
                    .remedy("open the store for writing once, with any command that alters it")
                    .into(),
            )
        }
        Ok(version) if version > steps.len() => {
            let known = steps.len();
            let cause = format!(
                "its tables have version {found}, this foldfs knows versions up to {known}"
            );
            let error = Error::failed(object(), cause).remedy("use a newer foldfs");
            // No damage.
            let errno = Some(libc::EPROTONOSUPPORT);
            Err(Error { errno, ..error }.into())
        }
        _ => Err(Error::failed(object(), format!("its tables have version {found}")).into()),
    }
}

/// All steps from version `from` on, in one transaction.
fn run(connection: &Connection, from: usize, steps: &[&str]) -> Result<(), Fault> {
    let transaction = connection.unchecked_transaction()?;
    for step in &steps[from..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", steps.len() as i64)?;
    durable::perform(Step::Commit, || Ok(transaction.commit()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    }

    fn message(fault: Fault) -> String {
        fault.about("catalog.db").to_string()
    }

    #[test]
    fn an_older_version_is_migrated_in_one_transaction() {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        assert_eq!(version(&connection), 1);
        let good = [STEPS[0], "CREATE TABLE two (a);", "CREATE TABLE three (a);"];
        let bad = [STEPS[0], "CREATE TABLE two (a);", "nonsense"];
        bring_up_to(&connection, true, &bad).unwrap_err();
        assert_eq!(version(&connection), 1);
        assert!(connection.prepare("SELECT * FROM two").is_err());
        let refused = bring_up_to(&connection, false, &good).unwrap_err();
        assert!(message(refused).contains("old version 1"));
        bring_up_to(&connection, true, &good).unwrap();
        assert_eq!(version(&connection), 3);
        connection.prepare("SELECT * FROM two, three").unwrap();
        bring_up_to(&connection, false, &good).unwrap();
    }

    #[test]
    fn a_newer_version_and_a_foreign_database_are_refused() {
        let connection = Connection::open_in_memory().unwrap();
        let foreign = bring_up(&connection, true).unwrap_err();
        assert!(message(foreign).contains("not a foldfs catalog"));
        create(&connection).unwrap();
        connection.pragma_update(None, "user_version", 9).unwrap();
        let newer = message(bring_up(&connection, true).unwrap_err());
        assert!(
            newer.contains("version 9") && newer.contains("newer foldfs"),
            "{newer}"
        );
        connection.pragma_update(None, "user_version", 0).unwrap();
        bring_up(&connection, true).unwrap_err();
    }
}
