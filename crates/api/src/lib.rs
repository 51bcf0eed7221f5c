//! The Kubernetes language: objects, kinds, schema, paths, selectors, quantities, patches, codecs, Status; pure.
