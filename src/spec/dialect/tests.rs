use serde_json::json;

use super::*;

#[test]
fn the_widths_of_releases_are_stated_as_numbers_that_make_them() {
    let rounded = Rounded {
        key: "width".to_owned(),
        of: "dim".to_owned(),
        factor: "factor".to_owned(),
        multiple: "multiple".to_owned(),
    };
    for (dim, width) in [
        (4096, 11008),
        (5120, 13824),
        (8192, 22016),
        (8192, 28672),
        (4096, 14336),
        (16384, 53248),
        (2048, 8192),
        (3072, 8192),
        (12, 19),
        (12, 40),
        (12, 7),
    ] {
        let mut config = json!({ "width": width, "dim": dim });
        rounded.state(&mut config).unwrap();
        let factor = config.get("factor").map_or(1.0, |factor| factor.as_f64().unwrap());
        let multiple = config["multiple"].as_u64().unwrap();
        assert_eq!(Rounded::width(dim, factor, multiple), Some(width), "{dim} {config}");
    }
    // What is there is kept.
    let mut config = json!({ "width": 14336, "dim": 4096, "multiple": 1024, "factor": 1.3 });
    let said = config.clone();
    rounded.state(&mut config).unwrap();
    assert_eq!(config, said);
    config["width"] = json!(11008);
    rounded.state(&mut config).unwrap();
    assert_eq!(config, json!({ "width": 11008, "dim": 4096, "multiple": 256 }));
}
