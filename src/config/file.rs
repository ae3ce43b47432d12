//! The YAML file, with the line of every key.

use super::{Fault, Mode, Setting, is_open, unknown};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use std::fmt;

/// A value that knows where its parts were written.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    List(Vec<Node>),
    Scalar(Value),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(key) = entries.next_key()? {
                    map.push((key, entries.next_value()?));
                }
                Ok(Node::Map(map))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(list) => list.iter().map(Self::value).collect(),
            Self::Map(map) => Value::Object(
                map.iter().map(|(k, v)| (k.value.clone(), v.value.value())).collect::<Map<_, _>>(),
            ),
        }
    }
}

/// The settings of a file.
pub fn settings(name: &str, text: &str, defaults: &Value, faults: &mut Vec<Fault>) -> Vec<Setting> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let root: Option<Node> = match serde_saphyr::from_str(text) {
        Ok(root) => root,
        Err(error) => {
            let place = match error.location() {
                Some(at) => format!("{name}:{}:{}", at.line(), at.column()),
                None => name.to_owned(),
            };
            // The first line says what; the rest is a drawing of the place, which we have named.
            let told = error.to_string();
            let first = told.lines().next().unwrap_or("is no YAML");
            let bare = first
                .split_once(": line ")
                .and_then(|(_, rest)| rest.split_once(": "))
                .map_or(first, |(_, rest)| rest);
            let problem = super::words::ours(bare);
            faults.push(Fault { place, problem });
            return Vec::new();
        }
    };
    let mut out = Vec::new();
    match root {
        None | Some(Node::Scalar(Value::Null)) => {}
        Some(Node::Map(map)) => walk(name, "", &map, defaults, &mut out, faults),
        Some(_) => faults.push(Fault { place: name.into(), problem: "expected keys and values".into() }),
    }
    out
}

fn walk(
    name: &str,
    above: &str,
    map: &[(Spanned<String>, Spanned<Node>)],
    defaults: &Value,
    out: &mut Vec<Setting>,
    faults: &mut Vec<Fault>,
) {
    for (key, node) in map {
        let place = format!("{name}:{}:{}", key.referenced.line(), key.referenced.column());
        let full = if above.is_empty() { key.value.clone() } else { format!("{above}.{}", key.value) };
        let Some(default) = defaults.get(&key.value) else {
            let known = defaults.as_object().into_iter().flatten().map(|(k, _)| k.clone());
            let within = if above.is_empty() { String::new() } else { format!("{above}: ") };
            faults.push(Fault { place, problem: format!("{within}{}", unknown(&key.value, known)) });
            continue;
        };
        match (&node.value, default) {
            (Node::Map(inner), Value::Object(_)) if !is_open(&full) => {
                walk(name, &full, inner, default, out, faults);
            }
            // `listen:` with nothing behind it changes nothing.
            (Node::Scalar(Value::Null), Value::Object(_)) => {}
            (node, _) => {
                let mut inner = Vec::new();
                if is_open(&full) {
                    places(name, &full, node, &mut inner);
                }
                out.push(Setting { key: full, value: node.value(), place, mode: Mode::Replace, inner });
            }
        }
    }
}

/// Where the keys of a map of the user's own, and those below them, were written.
fn places(name: &str, above: &str, node: &Node, out: &mut Vec<(String, String)>) {
    let Node::Map(map) = node else { return };
    for (key, inner) in map {
        let full = format!("{above}.{}", key.value);
        out.push((full.clone(), format!("{name}:{}:{}", key.referenced.line(), key.referenced.column())));
        places(name, &full, &inner.value, out);
    }
}
