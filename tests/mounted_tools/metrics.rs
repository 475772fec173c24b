//! A daemon's metrics, read by a parser of others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::passes::twins_with;
use super::*;

/// Prints each sample as a JSON line; fails for what is no OpenMetrics.
const PARSE: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    for sample in family.samples:
        print(json.dumps([sample.name, sample.labels, sample.value]))
"#;

/// Name and labels to value; `None` where there is no parser.
fn parsed(text: &str) -> Option<BTreeMap<String, f64>> {
    let parser =
        Path::new("/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py");
    let missing = (!parser.exists()).then_some("python3-prometheus-client is not installed");
    if !common::can_run("metrics", missing) {
        return None;
    }
    // The package belongs to the system's own python3.
    let ran = run(
        Command::new("/usr/bin/python3").args(["-c", PARSE]),
        text.as_bytes(),
    )
    .exits(0);
    let mut samples = BTreeMap::new();
    for line in ran.text().lines() {
        let sample: serde_json::Value = serde_json::from_str(line).unwrap();
        let labels = sample[1].as_object().unwrap().values();
        let labels: Vec<_> = labels.map(|value| value.as_str().unwrap()).collect();
        let name = [&[sample[0].as_str().unwrap()], &labels[..]]
            .concat()
            .join(" ");
        assert!(
            samples.insert(name, sample[2].as_f64().unwrap()).is_none(),
            "twice: {line}"
        );
    }
    Some(samples)
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_tell_what_was_done() {
    let test = "metrics_tell_what_was_done";
    // Free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let config = format!("interval = 'never'\nmetrics = '{address}'");
    let Some((store, images)) = twins_with(test, &config) else {
        return;
    };
    fs::write(images[0].join("usr/bin/tool"), "promoted first").unwrap();
    let size = fs::metadata(images[0].join("usr/bin/other")).unwrap().len();
    script(
        &images[0].path,
        "printf x | dd of=usr/bin/other conv=notrunc status=none",
    )
    .exits(0);
    for image in &images {
        fs::write(image.join("etc/new"), "equal in both").unwrap();
    }
    let held = File::open(images[1].join("etc/hosts")).unwrap();
    store.ok(&["hold", "first", "/usr/bin/tool"]);
    store.ok(&["fold"]);
    store.run(&["fold", "nosuch"]).exits(1);
    let text = store.ok(&["metrics"]).text();
    let Some(metrics) = parsed(&text) else {
        return;
    };
    let value = |name: &str| {
        *metrics
            .get(name)
            .unwrap_or_else(|| panic!("{name}:\n{text}"))
    };
    assert_eq!(value("foldfs_mounts"), 2.0);
    assert!(value("foldfs_handles") >= 1.0 && value("foldfs_nodes") >= 3.0);
    assert_eq!(value("foldfs_promoted_files_total"), 2.0);
    assert_eq!(value("foldfs_promoted_bytes_total"), size as f64);
    assert_eq!(value("foldfs_folds_total fold"), 2.0);
    assert_eq!(value("foldfs_fold_failures_total fold"), 1.0);
    assert_eq!(value("foldfs_folded_files_total fold"), 2.0);
    assert_eq!(value("foldfs_folded_bytes_total fold"), 26.0);
    assert_eq!(value("foldfs_left_files_total fold held"), 1.0);
    assert_eq!(value("foldfs_damaged_objects"), 0.0);
    assert!(value("foldfs_last_fold_time_seconds fold") >= value("foldfs_start_time_seconds"));
    assert!(value("foldfs_fold_seconds_total fold") > 0.0);

    let answer = get(&address);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert_eq!(
        parsed(body).unwrap(),
        metrics,
        "over HTTP it is another text"
    );
    let json = store.ok(&["metrics", "--json"]).json();
    assert_eq!(parsed(json["text"].as_str().unwrap()).unwrap(), metrics);
    drop(held);
    finish(&store, images);
    store.run(&["metrics"]).exits(1).says(&["no daemon"]);
}

#[test]
fn guests_are_served_where_the_port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("metrics = '{}'", taken.local_addr().unwrap());
    let Some((store, images)) = twins_with("guests_are_served_where_the_port_is_taken", &config)
    else {
        return;
    };
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    assert!(log.contains("metrics"), "{log}");
    store.ok(&["metrics"]);
    finish(&store, images);
}
