//! What users get wrong, and what they are told.

use super::*;

fn from_cmdline(text: &str) -> Resolved {
    load(&[], &Cmdline::parse(text))
}

fn messages(resolved: &Resolved) -> Vec<String> {
    resolved.mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_role_is_all_one_needs() {
    let resolved = from_cmdline("quiet skerry.role=server");
    assert_eq!(resolved.mistakes, []);
    assert_eq!(resolved.config, Config { role: Some(Role::Server), ..Config::default() });
}

#[test]
fn a_missing_role_says_what_to_give() {
    let messages = messages(&from_cmdline("quiet"));
    assert_eq!(messages.len(), 1);
    assert!(messages[0].contains("skerry.role=server"), "{messages:?}");
}

#[test]
fn the_agent_role_is_refused_by_name() {
    let resolved = from_cmdline("skerry.role=agent");
    assert_eq!(resolved.config.role, None);
    let messages = messages(&resolved);
    assert_eq!(messages.len(), 1, "a wrong role is one mistake, not also a missing one: {messages:?}");
    assert!(messages[0].starts_with("kernel command line: skerry.role: "), "{messages:?}");
    assert!(messages[0].contains("cannot join a cluster yet"), "{messages:?}");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_source_and_what_is_allowed() {
    let resolved = from_cmdline("skerry.rol=server skerry.ip=10.0.2 skerry.state=floppy skerry.hostname=Box");
    let messages = messages(&resolved);
    assert_eq!(messages.len(), 5, "{messages:?}");
    assert_eq!(
        messages[0],
        "kernel command line: skerry.rol: unknown key; allowed are role, hostname, ip, interface, root, state, log"
    );
    assert!(messages[2].contains("\"floppy\" is not allowed; allowed are auto, disk, ram"), "{messages:?}");
}

#[test]
fn a_file_is_overridden_by_the_command_line_and_its_mistakes_are_made_good() {
    let dir = std::env::temp_dir().join(format!("skerry-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("config.toml");
    std::fs::write(&file, "role = \"agent\"\nhostname = \"from-file\"\nip = 7\n").unwrap();
    let resolved = load(&[&file, &dir.join("absent.toml")], &Cmdline::parse("skerry.role=server"));
    assert_eq!(resolved.config.role, Some(Role::Server));
    assert_eq!(resolved.config.hostname.as_deref(), Some("from-file"));
    let expected = format!("{}: ip: must be a string, not integer", file.display());
    assert_eq!(messages(&resolved), [expected]);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_broken_file_names_its_line() {
    let mut resolved = Resolved { config: Config::default(), mistakes: Vec::new(), too_late: Vec::new() };
    resolved.apply_file("config.toml", "role = \"server\"\nhostname = \n");
    assert!(messages(&resolved)[0].starts_with("config.toml:2: "), "{:?}", resolved.mistakes);
}

#[test]
fn a_static_address_takes_a_gateway_and_name_servers() {
    assert_eq!(
        parse_ip("10.0.0.5/24,10.0.0.1,10.0.0.2,1.1.1.1"),
        Ok(Addressing::Static {
            address: "10.0.0.5/24".parse().unwrap(),
            gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
            dns: vec![Ipv4Addr::new(10, 0, 0, 2).into(), Ipv4Addr::new(1, 1, 1, 1).into()],
        })
    );
    assert!(parse_ip("10.0.0.5").is_err());
}

#[test]
fn root_is_auto_a_label_or_a_device() {
    assert_eq!(parse_root("LABEL=skerry-root"), Ok(RootSource::Label("skerry-root".to_owned())));
    assert_eq!(parse_root("/dev/vda"), Ok(RootSource::Device("/dev/vda".to_owned())));
    assert!(parse_root("vda").is_err());
}

#[test]
fn what_is_needed_before_a_file_can_be_read_is_pointed_out_there_and_is_no_mistake() {
    let mut resolved = from_cmdline("skerry.role=server");
    resolved.apply_file(IMAGE_FILE, "state = \"disk\"\n");
    assert_eq!((resolved.config.state, resolved.too_late.len()), (StatePolicy::Disk, 0));
    resolved.apply_file(STATE_FILE, "root = \"/dev/vdb\"\nstate = \"ram\"\nlog = \"warn\"\n");
    let told: Vec<_> = resolved.too_late.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "/var/lib/skerry/config.toml: root: has no effect here; set skerry.root on the kernel command line",
            "/var/lib/skerry/config.toml: state: has no effect here; set skerry.state on the kernel command line \
             or in /usr/share/skerry/config.toml",
        ]
    );
    assert_eq!(resolved.mistakes, []);
    assert_eq!((resolved.config.state, resolved.config.log), (StatePolicy::Disk, Level::Warn));
}
