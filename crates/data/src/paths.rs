//! Paths that a recipe names, relative to its folder.

use std::path::{Component, Path, PathBuf};

/// `path` as seen from `base`, in as few words as lead to the same place: `recipes` and `../runs/a` make `runs/a`. A link is not stepped back over, as
/// it leads elsewhere.
pub fn join(base: &Path, path: impl AsRef<Path>) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in base.join(path).components() {
        let is_named = matches!(plain.components().next_back(), Some(Component::Normal(_)));
        match part {
            Component::CurDir => {}
            Component::ParentDir if is_named && !plain.is_symlink() => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    if plain.as_os_str().is_empty() { PathBuf::from(".") } else { plain }
}

#[cfg(test)]
mod tests {
    use super::join;
    use std::path::Path;

    #[test]
    fn what_leads_back_is_left_out() {
        let plain = |base: &str, path: &str| join(Path::new(base), path).display().to_string();
        assert_eq!(plain("recipes", "../runs/a"), "runs/a");
        assert_eq!(plain("", "../runs/./a"), "../runs/a");
        assert_eq!(plain("a/b", "../../../c"), "../c");
        assert_eq!(plain("a", ".."), ".");
        assert_eq!(plain("recipes", "/runs/../a"), "/a");
        assert_eq!(plain("/", "../a"), "/../a");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("far/away")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("far/away"), folder.path().join("link")).unwrap();
        let joined = join(&folder.path().join("link"), "../found");
        assert_eq!(joined, folder.path().join("link/../found"));
        std::fs::write(folder.path().join("far/found"), "").unwrap();
        assert!(joined.is_file());
    }
}
