//! As what the program was called.

use std::ffi::OsString;
use std::path::Path;

/// What the binary behaves as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    Launcher,
    Drydock,
    Drydockd,
    Buildkitd,
    Buildctl,
}

impl Personality {
    /// Decides by the name in `arguments[0]`; any other name is `drydock`.
    pub(crate) fn of(arguments: &[OsString]) -> Personality {
        let name = arguments
            .first()
            .and_then(|name| Path::new(name).file_name());
        let is_launcher = |name: &OsString| name == "drydock-launcher";
        if arguments.iter().take(2).any(is_launcher) {
            return Personality::Launcher;
        }
        match name.and_then(|name| name.to_str()) {
            Some("drydockd") => Personality::Drydockd,
            Some("buildkitd") => Personality::Buildkitd,
            Some("buildctl") => Personality::Buildctl,
            _ => Personality::Drydock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Personality {
        Personality::of(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_name_decides() {
        assert_eq!(of(&["/usr/bin/drydock", "build"]), Personality::Drydock);
        assert_eq!(of(&["/usr/bin/drydockd"]), Personality::Drydockd);
        assert_eq!(of(&["buildkitd", "--root", "/x"]), Personality::Buildkitd);
        assert_eq!(of(&["./buildctl"]), Personality::Buildctl);
        assert_eq!(of(&["drydock-launcher"]), Personality::Launcher);
        assert_eq!(
            of(&["/proc/self/exe", "drydock-launcher"]),
            Personality::Launcher
        );
        assert_eq!(of(&["renamed"]), Personality::Drydock);
        assert_eq!(of(&[]), Personality::Drydock);
    }
}
