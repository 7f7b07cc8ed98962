//! The hub as an unprivileged user, as the files of `deploy/` run it: its directory, and its
//! messages where that cannot be written.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use fanfare_testing::HubProcess;
use fanfare_testing::http::get;

use super::support::FANFARE;

/// The user `nobody` of most systems.
const NOBODY: u32 = 65534;

/// A folder that an unprivileged user can reach, with the program in it.
struct Place {
    folder: TempDir,
    /// The user that runs the program: the current one, or `NOBODY` if that is root.
    user: u32,
    privileged: bool,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        set_mode(folder.path(), 0o755);
        fs::copy(FANFARE, folder.path().join("fanfare")).expect("the program");
        let own = fs::metadata(folder.path()).expect("the folder").uid();
        let privileged = own == 0;
        Self { folder, user: if privileged { NOBODY } else { own }, privileged }
    }

    /// Creates a directory of that user.
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("a directory");
        self.give(&path);
        set_mode(&path, 0o700);
        path
    }

    fn give(&self, path: &Path) {
        if self.privileged {
            chown(path, Some(self.user), Some(self.user)).expect("another owner");
        }
    }

    /// Returns the program, run by that user with the store in this directory, and with the umask
    /// of the unit.
    fn program(&self, store: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--no-new-privs");
        if self.privileged {
            let user = self.user.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
            command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        }
        command.args(["sh", "-c", "umask 0077 && exec \"$0\" \"$@\""]);
        command.arg(self.folder.path().join("fanfare")).current_dir(self.folder.path());
        command.env("FANFARE_STORE__PATH", store).env("FANFARE_STORE__DURABILITY", "sync");
        command.env("FANFARE_STORE__MIN_FREE", "1MiB").env("FANFARE_DRAIN__WINDOW", "50ms");
        command
    }

    fn hub(&self, store: &Path) -> HubProcess {
        HubProcess::new(self.program(store)).started()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[tokio::test]
async fn an_unprivileged_hub_keeps_its_events_in_a_directory_as_the_unit_makes_it() {
    let place = Place::new();
    let state = place.directory("state");
    let mut hub = place.hub(&state);
    hub.publish("kept", "over the restart").await;
    hub.stop().await;
    for entry in fs::read_dir(&state).expect("the directory") {
        let metadata = entry.expect("an entry").metadata().expect("its metadata");
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (place.user, 0o600));
    }
    let hub = place.hub(&state);
    let page = get(hub.addr(), "/v1/channels/kept?from=earliest").await;
    assert!(page.contains("over the restart"), "{page}");
}

#[test]
fn a_store_that_cannot_be_written_is_refused_with_the_path_the_user_and_what_to_do() {
    let place = Place::new();
    let locked = place.directory("locked");
    set_mode(&locked, 0o500);
    let file = place.folder.path().join("file");
    fs::write(&file, "").expect("a file");
    // As if the hub was first run as root: the directory is right, and a file is not.
    let tried = place.directory("tried");
    let journal = tried.join("0000000000000001.log");
    for (name, mode) in [("lock", 0o600), ("0000000000000001.log", 0o400), ("notes", 0o400)] {
        fs::write(tried.join(name), "").expect("a file");
        place.give(&tried.join(name));
        set_mode(&tried.join(name), mode);
    }
    let mine = "make it a directory of the hub's user, with all files in it (`chown -R`; under \
                systemd: `StateDirectory=`)";
    for (store, culprit, advice) in [
        (&locked, &locked, mine),
        (&locked.join("below/it"), &locked, mine),
        (&file, &file, "the store needs a directory"),
        (&tried, &journal, mine),
    ] {
        for arguments in [["config", "check"].as_slice(), &["serve", "--listen", "127.0.0.1:0"]] {
            let run = place.program(store).args(arguments).output().expect("an answer");
            let text = String::from_utf8_lossy(&run.stderr);
            let who = format!("{} cannot be written by user {}: ", culprit.display(), place.user);
            assert!(text.contains(&format!("store.path: {who}")), "{arguments:?}: {text}");
            assert!(text.trim_end().ends_with(advice), "{arguments:?}: {text}");
            assert_eq!(run.status.code(), Some(64), "a wrong configuration is not tried again");
        }
    }
    fs::remove_file(&journal).expect("the file goes");
    let run = place.program(&tried).args(["config", "check"]).output().expect("an answer");
    assert!(run.status.success(), "files of others are no business of the hub: {run:?}");
}

/// Returns the rest of the lines of a file of this repository that begin with the key.
fn values(file: &str, key: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).expect(file);
    let values = text.lines().filter_map(|line| line.trim().strip_prefix(key));
    values.map(|value| value.split('#').next().unwrap_or_default().trim().to_owned()).collect()
}

#[test]
fn the_settings_of_the_deployed_cluster_are_valid_and_fit_its_servers() {
    let file = "deploy/cluster/fanfare.toml";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let mut check = Command::new(FANFARE);
    check.args(["config", "check", "--config"]).arg(path);
    // As docker-compose.yml sets them.
    check.env("FANFARE_SERVER__INSECURE", "true");
    check.env("HUB_PASSWORD", "a password").env("CLUSTER_SECRET", "a secret that is long enough");
    let run = check.output().expect("an answer");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(values(file, "synced = "), ["true"]);
    assert_eq!(values("deploy/cluster/nats.conf", "sync_interval: "), ["always"]);
    assert_eq!(values(file, "user = "), ["\"hub\""]);
    assert_eq!(values("deploy/cluster/nats.conf", "user: "), ["hub"]);
}

#[test]
fn unit_image_compose_and_manifest_agree_on_the_directory_and_its_user() {
    const STORE: &str = "/var/lib/fanfare";
    let unit = |key| values("deploy/fanfare.service", key);
    assert_eq!(unit("StateDirectory="), ["fanfare"], "below /var/lib");
    assert_eq!(
        (unit("DynamicUser="), unit("ProtectSystem=")),
        (vec!["yes".into()], vec!["strict".into()])
    );
    assert_eq!(values("deploy/Dockerfile", "VOLUME "), [STORE]);
    assert_eq!(values("deploy/Dockerfile", "USER "), ["10001"]);
    let made = values("deploy/Dockerfile", "&& install -d -o 10001 -g root -m 0770 ");
    assert_eq!(made, [STORE]);
    assert_eq!(values("docker-compose.yml", "- data:"), [STORE]);
    assert_eq!(values("docker-compose.yml", "read_only: "), ["true"]);
    let manifest = |key| values("docs/operations.md", key);
    assert_eq!(
        (manifest("runAsUser: "), manifest("fsGroup: ")),
        (vec!["10001".into()], vec!["10001".into()])
    );
    assert_eq!(manifest("- { name: data, mountPath: "), [format!("{STORE} }}")]);
    assert_eq!(manifest("readOnlyRootFilesystem: "), ["true"]);
}
