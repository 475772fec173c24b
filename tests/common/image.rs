//! A mounted image as a system that operations are carried out in, with all that must stay
//! invisible in it.

use std::rc::Rc;

use rustix::fs::FileType;

use super::directory::{Directory, Scan, System, drop_caches};
use super::model::Outcome;
use super::op::{self, Invisible, Op};
use super::snapshot::{Depth, Fields, Snapshot};
use super::store::{Mounted, TestStore, tool};

/// More clones than this only cost time.
const CLONES_MAX: usize = 2;

/// What is pinned, in turn.
const HELD: [&str; 4] = ["/usr/bin", "/etc/hosts", "/", "/etc/conf.d"];

/// A mounted image of a family whose every image was made of the same tree.
#[derive(Debug)]
pub struct Image {
    store: Rc<TestStore>,
    name: &'static str,
    role: Role,
    directory: Directory,
    mounted: Option<Mounted>,
    sibling: Option<Mounted>,
    sibling_shows: Snapshot,
    imported: Vec<String>,
    clones: Vec<(String, Snapshot)>,
    imports: u32,
    holds: usize,
}

/// What an image does beside the operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Everything that must stay invisible; an image that must never change is mounted beside it.
    Watched,
    /// Everything that must stay invisible.
    Leader,
    /// The same operations as the leader, so that what both make can be shared.
    Follower,
}

impl Image {
    /// An image, and a second one beside it that must never change.
    pub fn watched(store: &Rc<TestStore>) -> Image {
        store.import("second", &store.sample(0), "family");
        let mut image = Image::new(store, "first", Role::Watched);
        let sibling = store.mount("second");
        sibling.assert_shows(&store.sample(0));
        image.sibling_shows = sibling.snapshot();
        image.sibling = Some(sibling);
        image
    }

    /// Two images in which the same is going to happen: what changes in both is the majority's.
    pub fn twins(store: &Rc<TestStore>) -> [Image; 2] {
        let leader = Image::new(store, "first", Role::Leader);
        [leader, Image::new(store, "twin", Role::Follower)]
    }

    fn new(store: &Rc<TestStore>, name: &'static str, role: Role) -> Image {
        store.import(name, &store.sample(0), "family");
        let mounted = store.mount(name);
        Image {
            store: Rc::clone(store),
            name,
            role,
            directory: Directory::new(&mounted.path),
            mounted: Some(mounted),
            sibling: None,
            sibling_shows: Snapshot::default(),
            imported: Vec::new(),
            clones: Vec::new(),
            imports: 0,
            holds: 0,
        }
    }

    /// Unmounts and looks at the clones, and at what another file system makes of the layers.
    pub fn finish(mut self) -> Result<(), String> {
        self.check_others()?;
        if self.role == Role::Watched {
            self.check_overlay()?;
        }
        // Open files and mappings go first.
        drop(std::mem::replace(
            &mut self.directory,
            Directory::new(&self.store.place),
        ));
        let mounts = [self.mounted.take(), self.sibling.take()];
        mounts.into_iter().flatten().for_each(Mounted::unmount);
        for (name, expected) in std::mem::take(&mut self.clones) {
            let clone = self.store.mount(&name);
            let lines = expected.differences(&clone.snapshot(), Fields::ALL);
            if !lines.is_empty() {
                return Err(format!(
                    "clone {name} differs from its origin:\n{}",
                    lines.join("\n")
                ));
            }
            clone.unmount();
        }
        Ok(())
    }

    /// The layers on the disk, given to the kernel's overlayfs: it must show the same tree. It
    /// cannot show devices 0:0, which are its whiteouts, nor the hard links of layers.
    fn check_overlay(&mut self) -> Result<(), String> {
        let (layers, merged) = (
            self.store.place.join("layers"),
            self.store.place.join("merged"),
        );
        std::fs::create_dir(&merged).expect("a mount point");
        self.store.ok(&[
            "export".as_ref(),
            self.name.as_ref(),
            layers.as_os_str(),
            "--format".as_ref(),
            "overlay".as_ref(),
        ]);
        let script = layers.join("mount.sh");
        tool("sh", &[&script, &merged]);
        let found = Snapshot::of_overlay(&merged);
        tool("umount", &[&merged]);
        let mut expected = self.directory.scan(Depth::Full).tree;
        expected
            .entries
            .retain(|_, entry| entry.file_type() != FileType::CharacterDevice || entry.rdev != 0);
        let fields = Fields::COPY.without(Fields::LINKS).without(Fields::NLINK);
        let lines = expected.differences(&found, fields);
        if lines.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the kernel's overlayfs shows the layers otherwise:\n{}",
            lines.join("\n")
        ))
    }

    /// Locks what is not, or the contrary.
    fn lock(&mut self, in_vain: bool) {
        let listed = self.store.ok(&["lock", "family", "--json"]).json();
        let is_locked = listed["patterns"] != serde_json::json!([]);
        let command = if is_locked { "unlock" } else { "lock" };
        let mut line = vec![command, "family", "--adopt"];
        line.extend(op::LOCKED);
        let ran = self.store.run(&line);
        let expected: &[i32] = if in_vain { &[4] } else { &[0, 3] };
        assert!(expected.contains(&ran.code), "{}: {}", ran.line, ran.stderr);
    }

    fn remount(&mut self) {
        self.directory.leave();
        self.mounted.take().expect("it is mounted").unmount();
        self.mounted = Some(self.store.mount(self.name));
        self.directory.enter();
    }
}

impl System for Image {
    fn name(&self) -> String {
        format!("image {}", self.name)
    }

    fn perform(&mut self, op: &Op<Vec<u8>>) -> Outcome {
        self.directory.perform(op)
    }

    fn invisible(&mut self, what: Invisible) {
        if self.role == Role::Follower && what != Invisible::Remount {
            return;
        }
        match what {
            Invisible::Fold => {
                self.store.ok(&["fold"]);
            }
            Invisible::Collect => {
                self.store.ok(&["collect"]);
            }
            Invisible::DropCaches => drop_caches(),
            Invisible::Import => {
                self.imports += 1;
                let name = format!("other{}", self.imports);
                let tree = self.store.sample(self.imports % 3);
                self.store.import(&name, &tree, "family");
                self.imported.push(name);
            }
            Invisible::Remove => {
                if let Some(name) = self.imported.pop() {
                    self.store.ok(&["remove", &name]);
                }
            }
            Invisible::Clone if self.clones.len() < CLONES_MAX => {
                let name = format!("clone{}", self.clones.len());
                let shows = self.directory.scan(Depth::Full).tree;
                self.store.ok(&["clone", "first", &name]);
                self.clones.push((name, shows));
            }
            Invisible::Clone => {}
            Invisible::Hold => {
                self.holds += 1;
                let path = HELD[self.holds % HELD.len()];
                self.store.ok(&["hold", self.name, path]);
            }
            Invisible::Release => {
                let held = self.store.ok(&["hold", self.name, "--json"]).json();
                if let Some(held) = held["paths"].as_array().and_then(|paths| paths.first()) {
                    let path = held["path"].as_str().unwrap();
                    self.store.ok(&["release", self.name, path]);
                }
            }
            Invisible::Remount => self.remount(),
            Invisible::Lock | Invisible::LockInVain => self.lock(what == Invisible::LockInVain),
        }
    }

    fn scan(&mut self, depth: Depth) -> Scan {
        self.directory.scan(depth)
    }

    fn never_reuses_numbers(&self) -> bool {
        true
    }

    fn check_others(&mut self) -> Result<(), String> {
        let Some(sibling) = &self.sibling else {
            return Ok(());
        };
        let lines = self
            .sibling_shows
            .differences(&sibling.snapshot(), Fields::ALL);
        if lines.is_empty() {
            return Ok(());
        }
        Err(format!("the sibling image changed:\n{}", lines.join("\n")))
    }
}
