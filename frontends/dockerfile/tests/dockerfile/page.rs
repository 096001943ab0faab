//! The commonest mistakes, as a person is told of them: see `page.txt`.

use std::collections::BTreeMap;

use dockerfile::{SourceText, lint};
use expect_test::expect_file;

const WRONG: [&str; 55] = [
    "",
    "# only a comment\n",
    "RUN make\n",
    "FROM alpine\nRUNN make\n",
    "FROM alpine\nRUN make\n    --all\n",
    "FROM alpine AS build AS final\n",
    "FROM alpine AS 1build\n",
    "FROM Alpine\n",
    "ARG BASE\nFROM $BASE\n",
    "FROM --platform=linux/ alpine\n",
    "FROM alpine\nCOPY app.py\n",
    "FROM alpine\nCOPY --form=build /a /b\n",
    "FROM alpine AS a\nCOPY --from=b /x /\nFROM a AS b\nCOPY --from=a /x /\n",
    "FROM alpine\nARG FROM_IMAGE=x\nCOPY --from=$FROM_IMAGE /x /\n",
    "FROM alpine\nRUN <<END\nmake\nmake install\n",
    "FROM alpine\nENV NAME\n",
    "FROM alpine\nENV A=1 B\n",
    "FROM alpine\nENV A=${B\n",
    "FROM alpine\nLABEL a=\"not closed\n",
    "FROM alpine\nWORKDIR ${DIR:?is needed}\n",
    "FROM alpine\nENV A=${B^^}\n",
    "FROM alpine\nSHELL /bin/bash -c\n",
    "FROM alpine\nHEALTHCHECK curl localhost\n",
    "FROM alpine\nHEALTHCHECK --interval=1us CMD true\n",
    "FROM alpine\nONBUILD ONBUILD RUN make\n",
    "FROM alpine\nEXPOSE 99999\n",
    "FROM alpine\nSTOPSIGNAL SIGNOTHING\n",
    "FROM alpine\nRUN --mount=type=cahce,target=/x make\n",
    "FROM alpine\nRUN --mount=tpye=cache,target=/x make\n",
    "FROM alpine\nRUN --mount=type=cache,target=/x,sharing=one make\n",
    "FROM alpine\nRUN --network=internet make\n",
    "# syntax=docker/dockerfile:1\n# escape=x\nFROM alpine\n",
    "# escape=`\n# escape=`\nFROM alpine\n",
    "FROM alpine\nCOPY --from=5 /x /\n",
    "FROM alpine\nARG\n",
    "FROM --file=x alpine\n",
    "FROM alpine\nUSER\n",
    "FROM alpine\nHEALTHCHECK --interval=soon CMD true\n",
    "FROM alpine\nHEALTHCHECK --retries=-1 CMD true\n",
    "FROM alpine\nEXPOSE 90-80\n",
    "FROM alpine\nCOPY --link --link a b\n",
    "FROM alpine\nCOPY --chmod=88 a b\n",
    "FROM alpine\nCOPY --parents=maybe a b\n",
    "FROM alpine\nCOPY https://example.org/a b\n",
    "FROM alpine\nADD --checksum=sha256:aa https://example.org/a b\n",
    "FROM alpine\nADD --checksum=sha256:aa a b\n",
    "FROM alpine\nRUN --network make\n",
    "FROM alpine\nRUN --mount=type=tmpfs,target=/x,size=big make\n",
    "FROM alpine\nRUN --mount=type=cache,target=/x,mode=9 make\n",
    "FROM alpine\nRUN --mount=type=secret make\n",
    "FROM alpine\nRUN --device=gpu make\n",
    "FROM alpine\nVOLUME \"\"\n",
    "# check=error\nFROM alpine\n",
    "# check=error=true\nFROM alpine\nWORKDIR app\n",
    "from alpine as Build\nMAINTAINER me\nENV TOKEN x\nARG PASSWORD\nWORKDIR app\nRUN echo $NOTHING \\\n\n  done\n\
     CMD make\nCMD serve\nEXPOSE 80:80\nEXPOSE 81/TCP\nFROM --platform=linux/amd64 alpine AS Build\n\
     FROM --platform=$TARGETPLATFORM alpine AS scratch\n",
];

#[test]
fn every_mistake_is_told_with_its_place_and_its_mend() {
    let mut page = String::new();
    for text in WRONG {
        let source = SourceText {
            filename: "Dockerfile".to_owned(),
            data: text.into(),
            ignore: None,
        };
        let report = lint(&source, &BTreeMap::new()).unwrap();
        assert!(!report.is_clean(), "{text}");
        page += &report.page("Dockerfile", text.as_bytes());
        page += "\n";
    }
    expect_file!["./page.txt"].assert_eq(&page);
}
