//! Definitions: defaults, and what is refused in upstream's words.

use serde_json::{Value, json};

use super::super::testing::World;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

fn definition() -> Value {
    json!({ "metadata": { "name": "widgets.example.com" }, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
        "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }] } })
}

fn refused(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut object = definition();
    change(&mut object);
    World::new().create(GROUP, PLURAL, object).expect_err("refused").texts()
}

fn refused_schema(schema: Value) -> Vec<String> {
    refused(|object| object["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema)
}

#[test]
fn a_definition_is_filled_in_as_upstream_does() {
    let made = World::new().create(GROUP, PLURAL, definition()).expect("valid");
    assert_eq!(
        made["spec"]["names"],
        json!({ "plural": "widgets", "kind": "Widget", "singular": "widget", "listKind": "WidgetList" })
    );
    assert_eq!(made["spec"]["conversion"], json!({ "strategy": "None" }));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
}

#[test]
fn names_groups_and_scopes_are_right() {
    let texts = refused(|object| {
        object["spec"]["group"] = "example".into();
        object["spec"]["scope"] = "Global".into();
        object["spec"]["names"]["listKind"] = "Widget".into();
        object["spec"]["names"]["shortNames"] = json!(["W"]);
    });
    assert_eq!(
        texts[..3],
        [
            "metadata.name: Invalid value: \"widgets.example.com\": must be spec.names.plural+\".\"+spec.group",
            "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
            "spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\"",
        ]
    );
    assert!(texts[3].starts_with("spec.names.shortNames[0]: Invalid value: \"W\": a DNS-1035 label must"));
    assert_eq!(
        texts[4],
        "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same"
    );
}

#[test]
fn one_version_is_stored_and_each_has_a_schema() {
    let texts = refused(|object| {
        object["spec"]["versions"] = json!([
            { "name": "v1", "served": true, "storage": false }, { "name": "v1", "served": true, "storage": false } ]);
    });
    assert_eq!(
        texts[..2],
        [
            "spec.versions[0].schema.openAPIV3Schema: Required value",
            "spec.versions[1].schema.openAPIV3Schema: Required value",
        ]
    );
    assert!(texts[2].starts_with("spec.versions: Invalid value: ["));
    assert!(texts[2].ends_with("must contain unique version names"));
    assert!(texts[3].ends_with("must have exactly one version marked as storage version"));
    assert_eq!(texts[4], "status.storedVersions: Invalid value: null: must have at least one stored version");
}

#[test]
fn what_one_version_says_is_named_as_what_all_say() {
    assert_eq!(
        refused_schema(
            json!({ "type": "object", "properties": { "spec": { "properties": { "a": { "type": "array" } } } } })
        ),
        [
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].items: Required value: must be specified",
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
        ]
    );
    let two = refused(|object| {
        let mut other = object["spec"]["versions"][0].clone();
        other["name"] = "v2".into();
        other["storage"] = false.into();
        other["schema"]["openAPIV3Schema"] = json!({ "type": "string" });
        object["spec"]["versions"].as_array_mut().expect("list").push(other);
    });
    assert_eq!(
        two,
        [
            "spec.versions[1].schema.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root"
        ]
    );
}

#[test]
fn a_schema_is_structural() {
    let at = "spec.validation.openAPIV3Schema";
    assert_eq!(
        refused_schema(json!({ "type": "object", "properties": {
            "metadata": { "type": "object", "properties": { "labels": { "type": "object" } } },
            "a": { "type": "integer", "anyOf": [{ "type": "integer" }] },
            "b": { "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] } },
            "allOf": [{ "properties": { "c": { "minimum": 1 } } }] })),
        [
            format!("{at}.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
            format!(
                "{at}.properties[c]: Required value: because it is defined in {at}.allOf[0].properties[c]"
            ),
            format!(
                "{at}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is \
                 implicitly specified"
            ),
        ]
    );
}

#[test]
fn a_schema_says_only_what_is_supported() {
    let at = "spec.validation.openAPIV3Schema";
    assert_eq!(
        refused_schema(json!({ "type": "object", "properties": {
            "kind": { "type": "string", "default": "x" },
            "a": { "type": "array", "uniqueItems": true, "items": { "type": "string" }, "$ref": "#/x" },
            "b": { "type": "object", "properties": { "c": { "type": "text" } }, "additionalProperties": { "type": "string" } },
            "d": { "type": "object", "x-kubernetes-preserve-unknown-fields": false } } })),
        [
            format!("{at}.properties[a].$ref: Forbidden: $ref is not supported"),
            format!(
                "{at}.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes \
                 quadratic"
            ),
            format!(
                "{at}.properties[b].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"
            ),
            format!(
                "{at}.properties[b].properties[c].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \
                 \"integer\", \"number\", \"object\", \"string\""
            ),
            format!(
                "{at}.properties[d].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"
            ),
            format!("{at}.properties[kind].default: Forbidden: must not be set in top-level kind"),
        ]
    );
}

#[test]
fn lists_are_merged_by_keys_that_are_there() {
    let at = "spec.validation.openAPIV3Schema.properties[a]";
    let list = |list: Value| refused_schema(json!({ "type": "object", "properties": { "a": list } }));
    assert_eq!(
        list(
            json!({ "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "k", "z"],
            "items": { "type": "object", "nullable": true, "properties": { "k": { "type": "string" } } } })
        ),
        [
            format!(
                "{at}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a \
                 default or be a required property"
            ),
            format!(
                "{at}.x-kubernetes-list-map-keys: Invalid value: [\"k\",\"k\",\"z\"]: must not contain duplicate entries"
            ),
            format!(
                "{at}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a \
                 default or be a required property"
            ),
            format!(
                "{at}.x-kubernetes-list-map-keys: Invalid value: [\"k\",\"k\",\"z\"]: entries must all be names of item properties"
            ),
            format!("{at}.items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is map"),
        ]
    );
    assert_eq!(
        list(json!({ "type": "string", "x-kubernetes-list-type": "bag" })),
        [
            format!(
                "{at}.type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified"
            ),
            format!(
                "{at}.x-kubernetes-list-type: Unsupported value: \"bag\": supported values: \"atomic\", \"set\", \"map\""
            ),
        ]
    );
}

#[test]
fn rules_columns_and_scales_are_whole() {
    assert_eq!(
        refused(|object| {
            let version = &mut object["spec"]["versions"][0];
            version["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] =
                json!([{ "rule": " ", "reason": "Why" }]);
            version["additionalPrinterColumns"] = json!([{ "name": "", "type": "text", "jsonPath": "spec" }]);
            version["subresources"] =
                json!({ "scale": { "specReplicasPath": ".status.n", "statusReplicasPath": "" } });
            version["deprecationWarning"] = "old".into();
        }),
        [
            "spec.versions[0].deprecationWarning: Invalid value: \"old\": can only be set for deprecated versions",
            "spec.validation.openAPIV3Schema.x-kubernetes-validations[0].rule: Required value: rule is not specified",
            "spec.validation.openAPIV3Schema.x-kubernetes-validations[0].reason: Unsupported value: \"Why\": supported values: \
             \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
            "spec.subresources.scale.specReplicasPath: Invalid value: \".status.n\": should be a json path under .spec",
            "spec.subresources.scale.statusReplicasPath: Required value",
            "spec.additionalPrinterColumns[0].name: Required value",
            "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
            "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"spec\": must be a simple json path starting with .",
        ]
    );
}

#[test]
fn conversion_by_webhook_says_where() {
    let conversion = |conversion: Value| refused(|object| object["spec"]["conversion"] = conversion);
    assert_eq!(
        conversion(json!({ "strategy": "Webhook" })),
        [
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Required value",
        ]
    );
    assert_eq!(
        conversion(json!({ "strategy": "None", "webhook": { "conversionReviewVersions": ["v1"] } })),
        [
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook"
        ]
    );
}

#[test]
fn groups_of_kubernetes_need_somebodys_word() {
    let with = |annotation: &str| {
        let mut object = definition();
        object["metadata"] = json!({ "name": "widgets.x.k8s.io", "annotations": { "api-approved.kubernetes.io": annotation } });
        object["spec"]["group"] = "x.k8s.io".into();
        World::new().create(GROUP, PLURAL, object).map_err(|refusal| refusal.texts())
    };
    assert!(with("unapproved, a test").is_ok() && with("https://github.com/x/pull/1").is_ok());
    let refused = with("").expect_err("missing");
    assert!(refused[0].starts_with(
        "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must"
    ));
    assert!(
        with("sure").expect_err("no word")[0]
            .contains("with either a URL or a reason starting with \"unapproved\"")
    );
}

#[test]
fn what_objects_are_stored_as_stays() {
    let world = World::new();
    let mut old = world.create(GROUP, PLURAL, definition()).expect("valid");
    old["status"]["conditions"] = json!([{ "type": "Established", "status": "True" }]);
    let refused = world.update(GROUP, PLURAL, &old, |object| {
        object["spec"]["scope"] = "Cluster".into();
        object["spec"]["names"]["kind"] = "Gadget".into();
        object["spec"]["versions"][0]["name"] = "v2".into();
    });
    assert_eq!(
        refused.expect_err("fixed").texts(),
        [
            "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and \
             must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from \
             status.storedVersions",
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
            "spec.names.kind: Invalid value: \"Gadget\": field is immutable",
        ]
    );
}
