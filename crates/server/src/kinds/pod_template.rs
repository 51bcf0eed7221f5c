//! PodTemplate: what pods could be made of.

use super::{Behaviour, pod};
use crate::tree::object;

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    defaults: |template| pod::fill_spec(object(object(template, "template"), "spec")),
    has_generation: true,
    ..Behaviour::PLAIN
};
