//! The Debian package: installed, upgraded, removed and purged in a root of its own, a copy-on-write
//! layer over this host's. Keys and mail survive all but a purge that is told so.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{peer, programs};

/// What is done in the root; `$1` and `$2` are the package and a newer one.
const STORY: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
say() { echo "== $*"; }
fail() { echo "FAILED: $*"; exit 1; }
as_user() { setpriv --reuid=hikyaku --regid=hikyaku --clear-groups --inh-caps=-all "$@"; }
sums() { sha256sum /etc/hikyaku/* $(find /var/lib/hikyaku -type f | sort); }
cd /

say install
dpkg -i "$1"
getent passwd hikyaku | grep -q /usr/sbin/nologin || fail "no user"
[ "$(stat -c '%U %G %a' /etc/hikyaku /var/lib/hikyaku | sort -u)" = "hikyaku hikyaku 700" ] || fail modes
[ -s /usr/lib/systemd/system/hikyakud.service ] || [ -s /lib/systemd/system/hikyakud.service ] || fail unit
readelf -S /usr/sbin/hikyakud | grep -q debug_info && fail "it is not stripped"

say first start
printf '\n[control]\nsocket = "/tmp/hikyaku.sock"\n' >> /etc/hikyaku/hikyaku.toml
sed -i 's/127.0.0.1:25"/127.0.0.1:2525"/' /etc/hikyaku/hikyaku.toml
echo "a passphrase of the package" | as_user hikyaku init
as_user hikyakud --check
[ "$(stat -c '%U %a' /etc/hikyaku/installation.secret)" = "hikyaku 400" ] || fail secret
sums > /tmp/before

say upgrade
dpkg -i "$2"
sums | cmp - /tmp/before || fail "an upgrade changed something"

say remove
dpkg -r hikyaku
[ ! -e /usr/sbin/hikyakud ] || fail "the program is still there"
sums | cmp - /tmp/before || fail "a removal changed something"

say purge that is not told so
dpkg -i "$2" && dpkg -P hikyaku
[ -s /etc/hikyaku/installation.secret ] && [ -s /var/lib/hikyaku/format ] || fail "a purge took the keys"

say purge that is
dpkg -i "$2"
HIKYAKU_PURGE=yes dpkg -P hikyaku
[ ! -e /etc/hikyaku ] && [ ! -e /var/lib/hikyaku ] || fail "a purge left something"
! getent passwd hikyaku || fail "the user is still there"
[ -z "$(find /usr /etc -xdev -name '*hikyak*' -newer /tmp/before -not -type c 2>/dev/null)" ] || fail "files are left"
echo ALL-WELL
"#;

/// Makes the package of the programs under test, in `version`.
fn package(bin: &Path, output: &Path, version: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let made = Command::new("make")
        .arg("-C")
        .arg(&repository)
        .args(["packages", &format!("VERSION={version}")])
        .arg(format!("BIN={}", bin.display()))
        .arg(format!("OUTPUT={}", output.display()))
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let mut found = std::fs::read_dir(output)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let name = format!("hikyaku_{version}_");
    found
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&name)
        })
        .unwrap()
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged() {
    let Some(programs) = programs() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("note: skipped: only root can install a package");
        return;
    }
    for needed in ["make", "dpkg-deb", "dpkg", "objcopy", "setpriv", "unshare"] {
        if peer(needed).is_none() {
            return;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let bin = programs.hikyakud.parent().unwrap().canonicalize().unwrap();
    let old = package(&bin, dir.path(), "0.1.0");
    let new = package(&bin, dir.path(), "0.1.1");
    let layer = dir.path().join("layer");
    std::fs::create_dir(&layer).unwrap();
    // A tmpfs of its own holds what changes: the layer may not lie in what it is laid over.
    let mount = "mount -t tmpfs tmpfs \"$0\" && mkdir \"$0\"/up \"$0\"/work \"$0\"/root && \
                 mount -t overlay overlay -o lowerdir=/,upperdir=\"$0\"/up,workdir=\"$0\"/work \"$0\"/root && \
                 mkdir -p \"$0\"/root/tmp && mount -t tmpfs tmpfs \"$0\"/root/tmp && cp \"$2\" \"$3\" \"$0\"/root/tmp/ && \
                 mount --bind /dev \"$0\"/root/dev && mount -t proc proc \"$0\"/root/proc";
    let script = format!(
        "{mount} || {{ echo NO-LAYER; exit 0; }}; exec chroot \"$0\"/root sh -c \"$1\" sh \
         /tmp/\"${{2##*/}}\" /tmp/\"${{3##*/}}\""
    );
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "sh", "-c", &script])
        .arg(&layer)
        .arg(STORY)
        .args([&old, &new])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if said.contains("NO-LAYER") {
        println!("note: skipped: no overlay can be mounted here: {said}");
        return;
    }
    assert!(
        output.status.success() && said.contains("ALL-WELL"),
        "{said}"
    );
}
